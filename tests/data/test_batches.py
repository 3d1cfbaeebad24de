from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from duallora.data import Batches, ImageSet, Preprocessing, scan_classes
from duallora.data import batches as module
from duallora.data import imageset as imageset_module
from duallora.data.images import decode
from duallora.data.transforms import Augment, normalise
from duallora.errors import DualLoRAError

Writer = Callable[..., Path]


def all_of(batches: Batches) -> tuple[Tensor, Tensor]:
    pairs = list(batches)
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.fixture
def files(write: Writer, tmp_path: Path) -> ImageSet:
    """11 real files of different sizes and colours."""
    for i in range(11):
        path = write(f"zoo/{'ab'[i % 2]}/{i:02}.png", (20 * i, 250 - 20 * i, 90), size=(20 + 3 * i, 30))
        noise = torch.randint(
            0, 256, (30, 20 + 3 * i, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)
        )
        Image.fromarray(noise.numpy()).save(path)
    return scan_classes(tmp_path / "zoo")


def test_evaluation_gives_every_image_in_order(noise: ImageSet, preprocessing: Preprocessing) -> None:
    batches = Batches(noise, preprocessing, batch_size=8)
    pairs = list(batches)
    assert [len(labels) for _, labels in pairs] == [8, 8, 7]
    assert len(batches) == 3 and batches.images_per_epoch == 23
    images, labels = all_of(batches)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(labels, noise.labels)
    assert isinstance(noise.items, Tensor)
    torch.testing.assert_close(images, normalise(noise.items, preprocessing))


def test_images_in_memory_are_resized(noise: ImageSet) -> None:
    images, _ = all_of(Batches(noise, Preprocessing(24, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))))
    assert images.shape == (23, 3, 24, 24)


def test_can_be_iterated_again_and_half_way(noise: ImageSet, preprocessing: Preprocessing) -> None:
    batches = Batches(noise, preprocessing, batch_size=5, train=True, seed=3)
    first = all_of(batches)
    next(iter(batches))
    assert same(all_of(batches), first)


def test_order_and_augmentation_follow_from_seed_and_epoch_alone(noise: ImageSet, preprocessing: Preprocessing) -> None:
    def epoch(number: int, seed: int = 1) -> tuple[Tensor, Tensor]:
        batches = Batches(noise, preprocessing, batch_size=5, train=True, seed=seed)
        batches.set_epoch(number)
        torch.rand(number + 1)  # whatever happens to the global generator
        return all_of(batches)

    torch.manual_seed(0)
    first = epoch(2)
    torch.manual_seed(99)
    assert same(epoch(2), first)
    assert not same(epoch(3), first) and not same(epoch(2, seed=2), first)
    assert sorted(first[1].tolist()) == sorted(noise.labels.tolist())


def test_the_global_generator_is_not_touched(noise: ImageSet, files: ImageSet, preprocessing: Preprocessing) -> None:
    state = torch.get_rng_state()
    for images in (noise, files):
        all_of(Batches(images, preprocessing, train=True, cache_bytes=0))
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_does_not_depend_on_the_batch_size(noise: ImageSet, preprocessing: Preprocessing) -> None:
    one = all_of(Batches(noise, preprocessing, batch_size=4, train=True))
    assert same(one, all_of(Batches(noise, preprocessing, batch_size=23, train=True)))


def test_the_smallest_crop_is_passed_on(noise: ImageSet, preprocessing: Preprocessing) -> None:
    """Whole images, at 1: what differs from evaluation is the shape and the flip alone."""
    small, default, whole = (
        all_of(Batches(noise, preprocessing, train=True, augment="crop", smallest_crop=least))[0]
        for least in (0.05, None, 1.0)
    )
    assert not torch.equal(small, default) and not torch.equal(default, whole)


def test_augmentation_changes_the_images_between_epochs(noise: ImageSet, preprocessing: Preprocessing) -> None:
    seen = {}
    for augment in ("standard", "shift", "crop", "none"):
        batches = Batches(noise, preprocessing, batch_size=23, train=True, augment=augment)  # type: ignore[arg-type]
        sums = []
        for epoch in range(2):
            batches.set_epoch(epoch)
            images, _ = all_of(batches)
            sums.append(images.sum((1, 2, 3)).sort().values)
        seen[augment] = torch.allclose(sums[0], sums[1], atol=1e-2)
    assert seen == {"standard": False, "shift": False, "crop": False, "none": True}


@settings(deadline=None)
@given(count=st.integers(0, 20), size=st.integers(1, 25), drop=st.booleans(), train=st.booleans())
def test_no_batch_is_empty_and_no_image_lost(count: int, size: int, drop: bool, train: bool) -> None:
    images = ImageSet(("a",), torch.zeros(count, dtype=torch.int64), torch.zeros(count, 3, 4, 4, dtype=torch.uint8))
    p = Preprocessing(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    batches = Batches(images, p, batch_size=size, drop_last=drop, train=train, augment="none")
    sizes = [len(labels) for _, labels in batches]
    assert len(sizes) == len(batches) and sum(sizes) == batches.images_per_epoch
    assert all(sizes)
    if drop and count >= size:
        assert set(sizes) == {size} and sum(sizes) == count - count % size
    else:
        assert sum(sizes) == count


def test_label_map(noise: ImageSet, preprocessing: Preprocessing) -> None:
    _, labels = all_of(Batches(noise, preprocessing, label_map=torch.tensor([7, 5, 6])))
    assert labels.tolist() == [[7, 5, 6][i] for i in noise.labels.tolist()]
    with pytest.raises(DualLoRAError, match="label_map has 2 entries, expected 3"):
        Batches(noise, preprocessing, label_map=torch.tensor([7, 5]))


def test_small_sets_of_files_are_decoded_once(
    files: ImageSet, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(imageset_module, "decode", lambda path: seen.append(path) or decode(path))
    monkeypatch.setattr(module, "decode", lambda path: pytest.fail("decoded outside the cache"))
    batches = Batches(files, preprocessing, train=True, workers=2)
    for epoch in range(3):
        batches.set_epoch(epoch)
        all_of(batches)
    all_of(Batches(files, preprocessing))
    assert len(seen) == len(files)


@pytest.mark.parametrize("train", [True, False])
def test_files_do_not_depend_on_the_workers(files: ImageSet, preprocessing: Preprocessing, train: bool) -> None:
    results = []
    for workers in (0, 2):
        batches = Batches(files, preprocessing, batch_size=4, train=train, seed=5, workers=workers, cache_bytes=0)
        batches.set_epoch(1)
        second = all_of(batches)
        batches.set_epoch(0)
        next(iter(batches))  # left half-way: the workers must not mix it into what follows
        first = all_of(batches)
        assert same(all_of(batches), first)
        batches.set_epoch(1)
        assert same(all_of(batches), second)
        assert same(first, second) is not train
        results.append(second)
    assert same(*results)


def test_files_and_cache_agree_in_evaluation(files: ImageSet, preprocessing: Preprocessing) -> None:
    cached, streamed = Batches(files, preprocessing), Batches(files, preprocessing, cache_bytes=0)
    assert same(all_of(cached), all_of(streamed))


@pytest.mark.parametrize("augment", ["none", "crop", "shift", "standard"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_files_and_cache_agree_in_training(tmp_path: Path, augment: Augment, crop_pct: float) -> None:
    """How many images a task has must not decide how they are augmented."""
    draw = np.random.default_rng(0)
    paths = []
    for i, shape in enumerate([(40, 90), (90, 40), (64, 64), (16, 16), (20, 17)]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(draw.integers(0, 255, (*shape, 3), np.uint8)).save(paths[-1])
    images = ImageSet(("a",), torch.zeros(5, dtype=torch.int64), tuple(paths))
    p = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=crop_pct)
    cached, streamed = (
        all_of(Batches(images, p, batch_size=2, train=True, augment=augment, seed=3, cache_bytes=most))
        for most in (10**9, 0)
    )
    assert same(cached, streamed)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_lost_on_the_way_is_named_without_a_trace_back(
    files: ImageSet, preprocessing: Preprocessing, workers: int
) -> None:
    assert isinstance(files.items, tuple)
    files.items[4].write_bytes(files.items[4].read_bytes()[:100])
    with pytest.raises(DualLoRAError, match="repair or remove the file") as caught:
        all_of(Batches(files, preprocessing, workers=workers, cache_bytes=0))
    assert files.items[4].name in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected 1"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"augment": "flip"}, "unknown augmentation 'flip'"),
    ],
)
def test_arguments(noise: ImageSet, preprocessing: Preprocessing, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DualLoRAError, match=message):
        Batches(noise, preprocessing, **arguments)


def test_negative_epoch(noise: ImageSet, preprocessing: Preprocessing) -> None:
    with pytest.raises(DualLoRAError, match="epoch is -1"):
        Batches(noise, preprocessing).set_epoch(-1)
