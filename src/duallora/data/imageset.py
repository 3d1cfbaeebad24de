"""Labelled images, on disk or in memory, and the pair of a training and a test set."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from duallora.compat import import_torchvision
from duallora.data.images import decode
from duallora.data.transforms import Preprocessing, evaluation_transform, resized
from duallora.errors import DualLoRAError, unknown


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        """Make the path one that can be written: bytes that are no UTF-8 are shown by their numbers."""
        object.__setattr__(self, "path", os.fsencode(self.path).decode("utf-8", "backslashreplace"))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images. Files are decoded when asked for; images in memory all have one size.

    Attributes:
        classes: the names of the classes; some may have no image.
        labels: (n,) int64, indices into `classes`.
        items: n files, or uint8 (n, 3, height, width).
        skipped: what was found but could not be used. `subset` and `only` leave it behind: it belongs to the source.

    Raises:
        DualLoRAError: labels and items of different number, a label outside the classes, a class named twice.

    >>> images = ImageSet(("cat", "dog"), torch.tensor([0, 1, 1]), torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    >>> len(images.only(["dog"])), images.only(["dog"]).labels.tolist()
    (2, [0, 0])
    """

    classes: tuple[str, ...]
    labels: Tensor
    items: tuple[Path, ...] | Tensor
    skipped: tuple[Skipped, ...] = ()
    _decoded: dict[Preprocessing, ImageSet] = field(default_factory=dict, init=False, repr=False)
    _resized: dict[Preprocessing, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise DualLoRAError(f"class {twice[0]!r} is named twice; every class needs a name of its own")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise DualLoRAError(f"labels are {self.labels.dtype} {tuple(self.labels.shape)}, expected int64 (n,)")
        if len(self.labels) != len(self.items):
            raise DualLoRAError(f"{len(self.items)} images but {len(self.labels)} labels, expected one label per image")
        if len(self.labels) and not (0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes)):
            low, high = int(self.labels.min()), int(self.labels.max())
            raise DualLoRAError(f"labels go from {low} to {high}, expected 0 to {len(self.classes) - 1} (the classes)")
        if isinstance(self.items, Tensor) and (
            self.items.dtype != torch.uint8 or self.items.ndim != 4 or self.items.shape[1] != 3
        ):
            raise DualLoRAError(
                f"images are {self.items.dtype} {tuple(self.items.shape)}, expected uint8 (n, 3, height, width); "
                "duallora.data.from_arrays converts other arrays"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether the images lie decoded in memory."""
        return isinstance(self.items, Tensor)

    def image(self, index: int) -> Tensor:
        """One image as RGB, uint8 (3, height, width)."""
        item = self.items[index]
        return item if isinstance(item, Tensor) else decode(item)

    def counts(self) -> list[int]:
        """Images per class, in the order of `classes`."""
        return torch.bincount(self.labels, minlength=len(self.classes)).tolist()

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """The images at these positions, in this order; the classes stay."""
        positions = torch.as_tensor(indices, dtype=torch.int64)
        return ImageSet(self.classes, self.labels[positions], _pick(self.items, positions))

    def only(self, classes: Sequence[str]) -> ImageSet:
        """The images of these classes, relabelled in the order given.

        Raises:
            DualLoRAError: a class that is not among the set's classes.
        """
        new_label = torch.full((len(self.classes),), -1)
        for label, name in enumerate(classes):
            if name not in self.classes:
                raise unknown("class", name, self.classes)
            new_label[self.classes.index(name)] = label
        labels = new_label[self.labels]
        positions = torch.nonzero(labels >= 0).flatten()
        return ImageSet(tuple(classes), labels[positions], _pick(self.items, positions))

    def with_classes(self, classes: Sequence[str]) -> ImageSet:
        """The same images relabelled for another list of classes, which must name all of this set's.

        Raises:
            DualLoRAError: a class of this set is not in the list.
        """
        for name in self.classes:
            if name not in classes:
                raise unknown("class", name, classes)
        new_label = torch.tensor([list(classes).index(name) for name in self.classes], dtype=torch.int64)
        return ImageSet(tuple(classes), new_label[self.labels], self.items, self.skipped)

    @classmethod
    def concat(cls, sets: Sequence[ImageSet]) -> ImageSet:
        """All images of several sets, over the union of their classes in the order of appearance.

        Raises:
            DualLoRAError: no set, or some in memory and some in files, or of different sizes.
        """
        if not sets:
            raise DualLoRAError("no image sets given; expected at least one")
        classes = tuple(dict.fromkeys(name for images in sets for name in images.classes))
        widened = [images.with_classes(classes) for images in sets]
        labels = torch.cat([images.labels for images in widened])
        held = [images.items for images in widened if isinstance(images.items, Tensor)]
        files = [path for images in widened if not isinstance(images.items, Tensor) for path in images.items]
        skipped = tuple(skip for images in sets for skip in images.skipped)
        if held and (files or len({items.shape[1:] for items in held}) > 1):
            raise DualLoRAError(
                "image sets can be joined when all are files, or all in memory and of one size; decoded() makes them so"
            )
        return cls(classes, labels, torch.cat(held) if held else tuple(files), skipped)

    def decoded_bytes(self, size: int) -> int:
        """Bytes that `decoded(size, ...)` takes."""
        return len(self) * 3 * size * size

    def resized(self, preprocessing: Preprocessing) -> tuple[Tensor, ...]:
        """The images as `transforms.resized` has them, uint8 (3, height, width) each; kept, as `decoded` keeps its own.

        Raises:
            UnreadableImage: a file that cannot be decoded, named.
        """
        settings = replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        if settings not in self._resized:
            import_torchvision()  # here, not first in many threads at once
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
                images = pool.map(lambda index: resized(self.image(index), settings), range(len(self)))
                self._resized[settings] = tuple(images)
        return self._resized[settings]

    def release(self) -> None:
        """Let go of what `resized` has kept."""
        self._resized.clear()

    def decoded(self, size: int, preprocessing: Preprocessing) -> ImageSet:
        """The set in memory, each image resized and cropped as for evaluation at (size, size).

        Done once: the result is kept with the set, and given back to whoever asks again.

        Args:
            size: side in pixels, in place of `preprocessing.size`.
            preprocessing: gives interpolation and crop.

        Raises:
            UnreadableImage: a file that cannot be decoded, named.
        """
        settings = replace(preprocessing, size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        if isinstance(self.items, Tensor) and tuple(self.items.shape[2:]) == (size, size):
            return self
        if settings not in self._decoded:
            transform = evaluation_transform(settings)
            if isinstance(self.items, Tensor):
                parts = [transform(chunk) for chunk in self.items.split(1024)]
                pixels = torch.cat(parts) if parts else torch.empty(0, 3, size, size, dtype=torch.uint8)
            else:
                pixels = _decode_all(self.items, size, transform)
            self._decoded[settings] = ImageSet(self.classes, self.labels, pixels, self.skipped)
        return self._decoded[settings]

    def fingerprint(self) -> str:
        """Sha256 that tells one set from another: classes, labels, pixels in memory, names and sizes of files.

        Files are not read and where they lie does not count, so a moved folder keeps its fingerprint.
        """
        digest = hashlib.sha256(repr(self.classes).encode())
        digest.update(self.labels.numpy().tobytes())
        if isinstance(self.items, Tensor):
            digest.update(repr(tuple(self.items.shape)).encode())
            for chunk in self.items.split(1024):
                digest.update(chunk.contiguous().numpy().tobytes())
        else:
            for path in self.items:
                digest.update(repr((path.name, path.stat().st_size if path.exists() else None)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """A training and a test set over the same classes."""

    train: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        """Refuse two lists of classes."""
        if self.train.classes != self.test.classes:
            raise DualLoRAError(
                f"training classes {list(self.train.classes)} and test classes {list(self.test.classes)} differ; "
                "use ImageSet.with_classes to give both the same list"
            )


def composed(names: Iterable[str]) -> tuple[str, ...]:
    """Names in Unicode's composed form (NFC): an accent may be typed, or stored by a file system, in two ways."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _pick(items: tuple[Path, ...] | Tensor, positions: Tensor) -> tuple[Path, ...] | Tensor:
    return items[positions] if isinstance(items, Tensor) else tuple(items[i] for i in positions.tolist())


def _decode_all(paths: tuple[Path, ...], size: int, transform: Callable[[Tensor], Tensor]) -> Tensor:
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    import_torchvision()  # here, not first in many threads at once

    def fill(index: int) -> None:
        pixels[index] = transform(decode(paths[index]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter lock
        for _ in pool.map(fill, range(len(paths))):
            pass
    return pixels
