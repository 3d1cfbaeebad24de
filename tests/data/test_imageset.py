from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from duallora.data import ImageSet, Preprocessing, Skipped, Split, scan_classes
from duallora.data import imageset as module
from duallora.data.images import UnreadableImage, decode
from duallora.data.transforms import evaluation_transform
from duallora.errors import DualLoRAError

Writer = Callable[..., Path]


def test_subset_keeps_classes_and_takes_the_order_given(noise: ImageSet) -> None:
    part = noise.subset([5, 0, 7])
    assert part.classes == noise.classes and part.labels.tolist() == [2, 0, 1]
    assert torch.equal(part.image(1), noise.image(0))
    assert len(noise.subset([])) == 0
    assert noise.subset(torch.tensor([1, 2])).labels.tolist() == [1, 2]


def test_only_relabels_in_the_order_given(noise: ImageSet) -> None:
    part = noise.only(["c", "a"])
    assert part.classes == ("c", "a")
    source = [i for i, label in enumerate(noise.labels.tolist()) if label in (0, 2)]
    assert len(part) == len(source)
    for position, i in enumerate(source):
        assert part.classes[part.labels[position]] == noise.classes[noise.labels[i]]
        assert torch.equal(part.image(position), noise.image(i))
    with pytest.raises(DualLoRAError, match="unknown class 'cc'; did you mean 'c'"):
        noise.only(["cc"])


def test_with_classes(noise: ImageSet) -> None:
    wider = noise.with_classes(["z", "c", "b", "a"])
    assert [wider.classes[i] for i in wider.labels] == [noise.classes[i] for i in noise.labels]
    with pytest.raises(DualLoRAError, match="unknown class 'b'"):
        noise.with_classes(["a", "c"])


def test_concat_of_overlapping_classes(noise: ImageSet) -> None:
    skipped = (Skipped("x.jpg", "is empty"),)
    one, two = noise.only(["b", "a"]), noise.only(["c", "b"])
    joined = ImageSet.concat([one, ImageSet(two.classes, two.labels, two.items, skipped)])
    assert joined.classes == ("b", "a", "c") and joined.skipped == skipped
    assert len(joined) == len(one) + len(two)
    names = [one.classes[i] for i in one.labels] + [two.classes[i] for i in two.labels]
    assert [joined.classes[i] for i in joined.labels] == names
    assert torch.equal(joined.image(len(one)), two.image(0))


def test_concat_refuses_what_does_not_go_together(noise: ImageSet, write: Writer, tmp_path: Path) -> None:
    write("zoo/a/1.png")
    write("zoo/a/2.png")
    files = scan_classes(tmp_path / "zoo")
    assert len(ImageSet.concat([files, files])) == 4
    small = ImageSet(("a",), torch.tensor([0]), torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    for pair in ([noise, files], [noise, small]):
        with pytest.raises(DualLoRAError, match="decoded"):
            ImageSet.concat(pair)
    with pytest.raises(DualLoRAError, match="at least one"):
        ImageSet.concat([])


def test_what_does_not_fit_is_refused() -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(DualLoRAError, match="2 images but 3 labels"):
        ImageSet(("a",), torch.zeros(3, dtype=torch.int64), pixels)
    with pytest.raises(DualLoRAError, match="labels go from 0 to 1, expected 0 to 0"):
        ImageSet(("a",), torch.tensor([0, 1]), pixels)
    with pytest.raises(DualLoRAError, match="labels go from -1"):
        ImageSet(("a",), torch.tensor([0, -1]), pixels)
    with pytest.raises(DualLoRAError, match="'a' is named twice"):
        ImageSet(("a", "a"), torch.tensor([0, 1]), pixels)
    with pytest.raises(DualLoRAError, match="expected int64"):
        ImageSet(("a",), torch.tensor([0.0, 0.0]), pixels)
    with pytest.raises(DualLoRAError, match=r"torch.float32 \(2, 3, 4, 4\), expected uint8"):
        ImageSet(("a",), torch.tensor([0, 0]), pixels.float())
    one = ImageSet(("a",), torch.tensor([0, 0]), pixels)
    with pytest.raises(DualLoRAError, match="differ"):
        Split(one, one.with_classes(["b", "a"]))


@pytest.fixture
def files(write: Writer, tmp_path: Path) -> ImageSet:
    for i in range(5):
        write(f"zoo/{'ab'[i % 2]}/{i}.png", (40 * i, 10, 20), size=(30 + i, 20))
    (tmp_path / "zoo/a/notes.txt").write_text("x")
    return scan_classes(tmp_path / "zoo")


def test_decoded_is_the_evaluation_transform_of_each_file(files: ImageSet, preprocessing: Preprocessing) -> None:
    cached = files.decoded(16, preprocessing)
    assert isinstance(cached.items, torch.Tensor) and cached.items.shape == (5, 3, 16, 16)
    assert cached.skipped == files.skipped != ()
    assert isinstance(files.items, tuple)
    for i, path in enumerate(files.items):
        assert torch.equal(cached.image(i), evaluation_transform(preprocessing)(decode(path)))


def test_files_are_decoded_once(files: ImageSet, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "decode", lambda path: seen.append(path) or decode(path))
    first = files.decoded(16, preprocessing)
    same = Preprocessing(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert files.decoded(16, preprocessing) is first and files.decoded(16, same) is first
    assert first.decoded(16, preprocessing) is first
    assert sorted(seen) == sorted(files.items)  # type: ignore[arg-type]
    assert files.decoded(8, preprocessing).decoded_bytes(8) == 5 * 3 * 64


def test_decoded_in_memory_and_empty(noise: ImageSet, preprocessing: Preprocessing) -> None:
    assert noise.decoded(16, preprocessing) is noise
    small = noise.decoded(8, preprocessing)
    assert isinstance(small.items, torch.Tensor) and small.items.shape == (23, 3, 8, 8)
    assert noise.subset([]).decoded(8, preprocessing).items.shape == (0, 3, 8, 8)  # type: ignore[union-attr]


def test_a_file_lost_since_the_scan_is_named(files: ImageSet, preprocessing: Preprocessing) -> None:
    assert isinstance(files.items, tuple)
    files.items[3].unlink()
    with pytest.raises(UnreadableImage, match=f"{files.items[3].name}.*does not exist"):
        files.decoded(16, preprocessing)


def test_fingerprint_in_memory(noise: ImageSet) -> None:
    assert isinstance(noise.items, torch.Tensor)
    copy = ImageSet(noise.classes, noise.labels.clone(), noise.items.clone())
    assert copy.fingerprint() == noise.fingerprint()
    copy.items[0, 0, 0, 0] ^= 1  # type: ignore[index]
    assert copy.fingerprint() != noise.fingerprint()
    assert noise.subset(range(22)).fingerprint() != noise.fingerprint()
    assert ImageSet(("a", "b", "d"), noise.labels, noise.items).fingerprint() != noise.fingerprint()
