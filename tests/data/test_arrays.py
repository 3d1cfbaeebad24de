from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from duallora.data import from_arrays, read_npz
from duallora.errors import DualLoRAError

RNG = np.random.default_rng(0)
NHWC = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
LABELS = [2, 0, 2, 1]


def pixels(images: object, labels: object = LABELS) -> torch.Tensor:
    items = from_arrays(images, labels).items
    assert isinstance(items, torch.Tensor) and items.dtype == torch.uint8
    return items


EXPECTED = torch.from_numpy(NHWC).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "images",
    [
        NHWC,
        NHWC.transpose(0, 3, 1, 2),
        torch.from_numpy(NHWC),
        EXPECTED,
        NHWC / 255,
        (NHWC / 255).astype(np.float32),
        EXPECTED.float() / 255,
        list(NHWC),
    ],
)
def test_layouts_and_types_of_colour(images: object) -> None:
    assert torch.equal(pixels(images), EXPECTED)


@pytest.mark.parametrize("images", [NHWC[..., 0], NHWC[..., :1], NHWC[:, None, :, :, 0], EXPECTED[:, :1]])
def test_grey(images: object) -> None:
    assert torch.equal(pixels(images), EXPECTED[:, :1].expand(-1, 3, -1, -1))


def test_where_both_readings_fit_the_library_decides() -> None:
    array = RNG.integers(0, 256, (4, 3, 7, 3), dtype=np.uint8)
    assert pixels(array).shape == (4, 3, 3, 7)
    assert pixels(torch.from_numpy(array)).shape == (4, 3, 7, 3)


def test_the_array_is_copied() -> None:
    array = NHWC.copy()
    items = pixels(array)
    array[:] = 0
    assert torch.equal(items, EXPECTED)
    tensor = EXPECTED.contiguous()
    items = pixels(tensor)
    tensor.zero_()
    assert torch.equal(items, EXPECTED)


def test_labels() -> None:
    images = from_arrays(NHWC, [10, 9, 10, 2])
    assert images.classes == ("2", "9", "10") and images.labels.tolist() == [2, 1, 2, 0]
    images = from_arrays(NHWC, np.array(["dog", "cat", "dog", "ant"]))
    assert images.classes == ("ant", "cat", "dog") and images.labels.tolist() == [2, 1, 2, 0]
    images = from_arrays(NHWC, torch.tensor([[1], [0], [1], [0]]), ["x", "y", "z"])
    assert images.classes == ("x", "y", "z") and images.labels.tolist() == [1, 0, 1, 0]
    images = from_arrays(NHWC, ["y", "x", "y", "x"], ["y", "x"])
    assert images.classes == ("y", "x") and images.labels.tolist() == [0, 1, 0, 1]
    images = from_arrays(NHWC, ["A", "a", "A", "a"])
    assert images.classes == ("A", "a")
    assert len(from_arrays(NHWC[:0], [])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (NHWC, [0, 1], None, "4 images but 2 labels"),
        (NHWC, [0, 1, 2, 5], ["a", "b"], "labels go from 0 to 5, expected 0 to 1"),
        (NHWC, ["a", "b", "c", "a"], ["a", "b"], "'c' is not among the classes"),
        (NHWC, [0.5, 1.0, 0.0, 0.0], None, "labels of type float64"),
        (NHWC, LABELS, ["a", "a", "b"], "named twice"),
        (NHWC.astype(np.int64), LABELS, None, "type int64: expected uint8"),
        (NHWC.astype(np.float32), LABELS, None, "divide by 255"),
        ((NHWC / 255) - 0.5, LABELS, None, r"from -0.5 to 0.5: expected \[0, 1\]"),
        (np.full((4, 6, 5), np.nan), LABELS, None, r"expected \[0, 1\]"),
        (np.zeros((4, 6, 5, 4), np.uint8), LABELS, None, "drop the fourth channel"),
        (np.zeros((4, 6, 5, 7), np.uint8), LABELS, None, r"shape \(4, 6, 5, 7\): expected"),
        (np.zeros((4, 6), np.uint8), LABELS, None, r"shape \(4, 6\): expected"),
        (np.zeros((4, 0, 5), np.uint8), LABELS, None, r"shape \(4, 0, 5\): expected"),
        ([NHWC[0], NHWC[1, :3]], [0, 1], None, "same size"),
    ],
)
def test_what_cannot_be_used(images: object, labels: object, classes: list[str] | None, message: str) -> None:
    with pytest.raises(DualLoRAError, match=message):
        from_arrays(images, labels, classes)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, train_x=NHWC, train_y=LABELS, test_x=NHWC[:2], test_y=[1, 2], classes=["x", "y", "z"])
    split = read_npz(path)
    assert split.train.classes == ("x", "y", "z") and split.train.labels.tolist() == LABELS
    assert torch.equal(split.test.image(1), EXPECTED[1])
    np.savez(path, train_x=NHWC, train_y=["c", "a", "b", "a"], test_x=NHWC[:2], test_y=["c", "b"])
    split = read_npz(path)
    assert split.train.classes == split.test.classes == ("a", "b", "c") and split.test.labels.tolist() == [2, 1]


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with pytest.raises(DualLoRAError, match=r"set\.npz' does not exist"):
        read_npz(path)
    np.savez(path, train_x=NHWC, train_y=LABELS)
    with pytest.raises(DualLoRAError, match="lacks test_x, test_y; it holds train_x, train_y"):
        read_npz(path)
    good = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04 nonsense", good[: len(good) // 2], b"just text"):
        path.write_bytes(damaged)
        with pytest.raises(DualLoRAError, match=r"cannot be read as \.npz"):
            read_npz(path)
    np.savez(path, train_x=np.array([object()]), train_y=[0], test_x=NHWC, test_y=LABELS)
    with pytest.raises(DualLoRAError, match=r"cannot be read as \.npz"):
        read_npz(path)
    with path.open("wb") as file:
        np.save(file, NHWC)
    with pytest.raises(DualLoRAError, match=r"cannot be read as \.npz"):
        read_npz(path)
    np.savez(path, train_x=NHWC, train_y=LABELS, test_x=NHWC[:2], test_y=[1, 7])
    with pytest.raises(DualLoRAError, match="unknown class '7'"):
        read_npz(path)
