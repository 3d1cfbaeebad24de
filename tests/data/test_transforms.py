from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.compat import import_torchvision
from duallora.data.transforms import (
    Augment,
    Preprocessing,
    TrainingTransform,
    crop_box,
    evaluation_transform,
    normalise,
    training_transform,
)
from duallora.errors import DualLoRAError

HALF = (0.5, 0.5, 0.5)


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (50, 51), (100, 100), (10, 30), (3, 300), (1, 1)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
def test_evaluation_size(height: int, width: int, crop_pct: float) -> None:
    result = evaluation_transform(Preprocessing(32, HALF, HALF, crop_pct=crop_pct))(random_image(height, width))
    assert result.shape == (3, 32, 32) and result.dtype == torch.uint8


def test_evaluation_is_torchvisions_resize_and_centre_crop() -> None:
    import_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    image = random_image(60, 91)
    p = Preprocessing(32, HALF, HALF, "bilinear", 0.875)
    resize = v2.Resize(round(32 / 0.875), interpolation=InterpolationMode.BILINEAR, antialias=True)
    expected = v2.Compose([resize, v2.CenterCrop(32)])(image)
    assert (evaluation_transform(p)(image).int() - expected.int()).abs().float().mean() < 2  # rounding of the long side


def test_small_square_images_lose_no_border() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, 0] = 255
    cropping = evaluation_transform(Preprocessing(32, HALF, HALF, "nearest", crop_pct=0.5))
    assert cropping(image)[:, 0].float().mean() == 255
    large = torch.zeros(3, 64, 64, dtype=torch.uint8)
    large[:, 0] = 255
    assert cropping(large)[:, 0].float().mean() == 0


def test_evaluation_of_a_batch_equals_one_by_one() -> None:
    images = torch.stack([random_image(20, 24, seed) for seed in range(4)])
    transform = evaluation_transform(Preprocessing(16, HALF, HALF, crop_pct=0.9))
    assert torch.equal(transform(images), torch.stack([transform(image) for image in images]))


def test_images_of_the_right_size_are_left_alone() -> None:
    image = random_image(16, 16)
    assert torch.equal(evaluation_transform(Preprocessing(16, HALF, HALF, crop_pct=0.8))(image), image)


@settings(deadline=None)
@given(
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    smallest=st.floats(0.05, 1),
)
def test_crop_boxes_lie_inside_and_keep_their_shape(
    draws: list[float], height: int, width: int, smallest: float
) -> None:
    top, left, h, w = crop_box(draws, height, width, smallest)
    assert top >= 0 and left >= 0 and h >= 1 and w >= 1
    assert top + h <= height and left + w <= width
    if h > 20 and w > 20:
        assert 0.7 < w / h < 1.43
    if height == width > 50:
        assert h * w >= 0.74 * smallest * height * width - 2 * height


def test_crop_boxes_reach_every_border() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = [crop_box(draws, 10, 10, 0.5) for draws in torch.rand(500, 5, generator=generator).tolist()]
    assert {top for top, _, h, _ in boxes} >= {0, 1, 2}
    assert any(top + h == 10 and top for top, _, h, _ in boxes)
    assert any(left + w == 10 and left for _, left, _, w in boxes)


def test_training_kinds() -> None:
    p = Preprocessing(16, HALF, HALF)
    image = random_image(20, 24)
    assert torch.equal(training_transform(p, "none")(image), evaluation_transform(p)(image))
    flipped, straight = [0.5, 0.5, 0.5, 0.5, 0.1], [0.5, 0.5, 0.5, 0.5, 0.9]
    standard, crop, shift = (training_transform(p, kind) for kind in ("standard", "crop", "shift"))
    assert torch.equal(standard(image, flipped), standard(image, straight).flip(-1))
    assert torch.equal(crop(image, flipped), crop(image, straight))
    assert torch.equal(shift(image, flipped), shift(image, straight).flip(-1))
    assert standard(image).shape == (3, 16, 16)
    assert not torch.equal(standard(image, [0.0, 0.5, 0.0, 0.0, 0.9]), standard(image, [0.0, 0.5, 0.9, 0.9, 0.9]))
    with pytest.raises(DualLoRAError, match="unknown augmentation 'standart'; did you mean 'standard'"):
        training_transform(p, "standart")  # type: ignore[arg-type]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 2), (0, 4), (3, 1)])
def test_a_shift_mirrors_the_border(down: int, right: int) -> None:
    image = random_image(32, 32)
    wide = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")  # an eighth of the side
    draws = [0.5, 0.5, (2 * down + 0.5) / 9, (2 * right + 0.5) / 9, 0.9]
    shifted = training_transform(Preprocessing(32, HALF, HALF), "shift")(image, draws)
    assert np.array_equal(shifted.numpy(), wide[:, 2 * down : 2 * down + 32, 2 * right : 2 * right + 32])


@pytest.mark.parametrize(
    ("kind", "given", "smallest"), [("standard", None, 0.5), ("crop", None, 0.7), ("crop", 0.08, 0.08)]
)
def test_training_is_torchvisions_resized_crop(kind: Augment, given: float | None, smallest: float) -> None:
    import_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    image, draws = random_image(40, 50), [0.3, 0.6, 0.2, 0.7, 0.9]
    box = crop_box(draws, 40, 50, smallest)
    expected = functional.resized_crop(image, *box, [16, 16], interpolation=InterpolationMode.BICUBIC)
    assert torch.equal(training_transform(Preprocessing(16, HALF, HALF), kind, given)(image, draws), expected)


def test_normalise() -> None:
    p = Preprocessing(4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    image = random_image(4, 4)
    expected = (image.double() / 255 - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)
    assert normalise(image, p).dtype == torch.float32
    torch.testing.assert_close(normalise(image, p).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normalise(image[None], p)[0], normalise(image, p))
    torch.testing.assert_close(p.apply(image), normalise(image, p))


def test_json_round_trip() -> None:
    p = Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.9)
    assert Preprocessing.from_json(json.loads(json.dumps(p.to_json()))) == p
    with pytest.raises(DualLoRAError, match="unknown preprocessing key 'crop'; did you mean 'crop_pct'"):
        Preprocessing.from_json({**p.to_json(), "crop": 1})
    with pytest.raises(DualLoRAError, match=r"missing .*std"):
        Preprocessing.from_json({"size": 4, "mean": [0, 0, 0]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "image size is 0"),
        ({"std": (0.5, 0.0, 0.5)}, "std above 0"),
        ({"mean": (0.5,)}, "3 numbers each"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
    ],
)
def test_impossible_preprocessing(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"size": 8, "mean": HALF, "std": HALF, **change}
    with pytest.raises(DualLoRAError, match=message):
        Preprocessing.from_json(values)


@pytest.mark.parametrize("make", [evaluation_transform, training_transform])
def test_transforms_travel_to_worker_processes(make: Callable[[Preprocessing], TrainingTransform]) -> None:
    transform = make(Preprocessing(16, HALF, HALF))
    assert pickle.loads(pickle.dumps(transform)) == transform
