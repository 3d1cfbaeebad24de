"""Images that already are arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duallora.data.imageset import ImageSet, Split, composed
from duallora.data.sampling import hold_out
from duallora.errors import DualLoRAError
from duallora.files import user_path


def from_arrays(images: Any, labels: Any, classes: Sequence[str] | None = None) -> ImageSet:
    """Labelled images in memory. The arrays are copied.

    Args:
        images: numpy array or tensor, uint8 or floating point in [0, 1], of shape (n, h, w), (n, h, w, 1 or 3) or
            (n, 1 or 3, h, w). Where both readings fit, numpy's last axis and torch's second axis is the channel.
        labels: n integers or strings.
        classes: the names of the classes; integer labels are then indices into it. Without it the classes are the
            labels that occur, in ascending order (integers by value, as text).

    Raises:
        DualLoRAError: another shape, type or range; a label that is no class; different numbers of images and labels.

    >>> from_arrays(np.zeros((3, 8, 8), np.uint8), ["b", "a", "b"]).classes
    ('a', 'b')
    """
    pixels = _pixels(images)
    names, indices = _labels(labels, classes)
    if len(pixels) != len(indices):
        raise DualLoRAError(f"{len(pixels)} images but {len(indices)} labels, expected one label per image")
    return ImageSet(names, indices, pixels)


def read_npz(path: str | Path, *, held_out: float | None = None) -> Split:
    """Read a training and a test set from one .npz file.

    It holds `train_x`, `test_x` (images as `from_arrays` takes them), `train_y`, `test_y` (labels) and, if wanted,
    `classes` (names that the labels index).

    Args:
        path: the file.
        held_out: share of every class for testing, where the file has no test images; without it they must be there.

    Raises:
        DualLoRAError: the file is missing, damaged, holds Python objects, or lacks a key.
    """
    path = user_path(path)
    if not path.is_file():
        raise DualLoRAError(f"file '{path}' does not exist; expected an .npz with train_x, train_y, test_x, test_y")
    try:
        with zipfile.ZipFile(path):
            pass  # numpy would take one array, or a pickle, for a file of its own as well
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DualLoRAError(f"'{path}' cannot be read as .npz ({error}); write it with numpy.savez") from error
    alone = held_out is not None and not {"test_x", "test_y"} & set(arrays)
    needed = ("train_x", "train_y") if alone else ("train_x", "train_y", "test_x", "test_y")
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise DualLoRAError(f"'{path}' lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    classes = arrays.get("classes")
    names = None if classes is None else [str(name) for name in classes.tolist()]
    train = from_arrays(arrays["train_x"], arrays["train_y"], names)
    if alone:
        kept, held = hold_out(train.labels, train.classes, held_out or 0.0)
        return Split(train.subset(kept), train.subset(held))
    test = from_arrays(arrays["test_x"], arrays["test_y"], names)
    return Split(train, test.with_classes(train.classes))


def _pixels(images: Any) -> Tensor:
    """Uint8 (n, 3, h, w); grey images keep one channel's memory, seen three times."""
    from_torch = isinstance(images, Tensor)
    try:
        array = images.detach().cpu().numpy() if from_torch else np.asarray(images)
    except (ValueError, TypeError) as error:
        raise DualLoRAError(f"the images are no array ({error}); give them all the same size") from error
    shape = f"images of shape {array.shape}"
    expected = "expected (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w)"
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise DualLoRAError(f"{shape}: {expected}")
    if array.ndim == 4:
        axes = [axis for axis in ((1, 3) if from_torch else (3, 1)) if array.shape[axis] in (1, 3)]
        if not axes:
            hint = "; drop the fourth channel" if 4 in (array.shape[1], array.shape[3]) else ""
            raise DualLoRAError(f"{shape}: {expected}{hint}")
        array = np.moveaxis(array, axes[0], 1)
    else:
        array = array[:, None]
    return torch.tensor(np.ascontiguousarray(_to_uint8(array))).expand(-1, 3, -1, -1)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DualLoRAError(f"images of type {array.dtype}: expected uint8 or floating point in [0, 1]")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN fails as well
        raise DualLoRAError(
            f"images with values from {array.min():g} to {array.max():g}: expected [0, 1], or uint8; divide by 255, "
            "and undo any normalisation"
        )
    scaled: np.ndarray = np.rint(array * 255).astype(np.uint8)
    return scaled


def _labels(labels: Any, classes: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor]:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    text = array.dtype.kind in "US"
    if array.ndim != 1 or not (text or array.dtype.kind in "iu" or array.size == 0):
        raise DualLoRAError(f"labels of type {array.dtype}, shape {array.shape}: expected n integers or n strings")
    if classes is None:
        values = np.unique(array)
        return composed(str(value) for value in values.tolist()), torch.from_numpy(
            np.searchsorted(values, array).astype(np.int64)
        )
    names = composed(classes)
    if not text:
        return names, torch.from_numpy(array.astype(np.int64))
    position = {name: index for index, name in enumerate(names)}
    wanted = composed(str(value) for value in array.tolist())
    strangers = sorted(set(wanted) - set(position))
    if strangers:
        raise DualLoRAError(f"label {strangers[0]!r} is not among the classes {list(names)}")
    return names, torch.tensor([position[name] for name in wanted], dtype=torch.int64)
