"""Batches of prepared images, the same ones each time for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from duallora.data.images import decode
from duallora.data.imageset import ImageSet
from duallora.data.transforms import (
    DRAWS,
    Augment,
    EvaluationTransform,
    Preprocessing,
    TrainingTransform,
    evaluation_transform,
    normalise,
    resized,
    training_transform,
)
from duallora.errors import DualLoRAError

CACHE_BYTES = 512 * 2**20
"""Sets of files that take no more than this when decoded are decoded once and kept (43,690 images at 64 px)."""

_Draws = list[list[float]] | None
_Key = tuple[int, list[float] | None]


class Batches:
    """Batches of images and labels; can be iterated again and again.

    The order of the images and their augmentation are a pure function of the seed, the epoch and each image's position
    in the set: whatever the global generators did, whatever the number of workers; augmentation also whatever the batch
    size. Without `train` the images come in their order, prepared as for evaluation. Nothing is drawn from torch's
    global generator.

    Files are first brought to the size of evaluation, uncropped. Small sets of them are decoded once and kept with the
    set; larger ones are decoded as they are needed, by `workers` processes that live as long as this object (so one
    iteration at a time, then). The images are the same either way.

    Args:
        images: the set.
        preprocessing: of the backbone.
        batch_size: images per batch; the last batch may have fewer, never none.
        train: shuffle and augment.
        augment: see `duallora.data.transforms.Augment`.
        smallest_crop: see `duallora.data.transforms.training_transform`.
        seed: not negative.
        workers: processes for decoding files; 0 decodes in this one. Images in memory need none.
        label_map: (classes,) int64, what to give in place of each label.
        drop_last: leave out a last batch with fewer images, unless it is the only one.
        cache_bytes: sets of files that take no more when decoded, were all of them square, are kept in memory.

    Yields:
        Images, float32 (b, 3, size, size), normalised; labels, int64 (b,).

    Raises:
        DualLoRAError: an argument outside its range; while iterating, a file that cannot be decoded.

    >>> images = ImageSet(("a", "b"), torch.tensor([0, 1, 1]), torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    >>> batches = Batches(images, Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), batch_size=2)
    >>> [(tuple(x.shape), y.tolist()) for x, y in batches]
    [((2, 3, 16, 16), [0, 1]), ((1, 3, 16, 16), [1])]
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        batch_size: int = 64,
        train: bool = False,
        augment: Augment = "standard",
        smallest_crop: float | None = None,
        seed: int = 0,
        workers: int = 0,
        label_map: Tensor | None = None,
        drop_last: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Check the arguments; nothing is decoded before the first iteration."""
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 0)):
            if value < least:
                raise DualLoRAError(f"{name} is {value}, expected {least} or more")
        if label_map is not None and len(label_map) != len(images.classes):
            raise DualLoRAError(
                f"label_map has {len(label_map)} entries, expected {len(images.classes)}, one per class"
            )
        self.preprocessing, self.batch_size, self.epoch = preprocessing, batch_size, 0
        self._images, self._train, self._seed = images, train, seed
        self._labels = images.labels if label_map is None else label_map[images.labels]
        self._transform = training_transform(preprocessing, augment, smallest_crop)
        if not train:
            self._transform = evaluation_transform(preprocessing)
        self._workers, self._cache_bytes = workers, cache_bytes
        self._loader: DataLoader[Any] | None = None
        self._sampler = _Planned()
        full, rest = divmod(len(images), batch_size)
        self._batches = full + bool(rest and not (drop_last and full))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    @property
    def images_per_epoch(self) -> int:
        """Images in an epoch; fewer than the set has only with `drop_last`."""
        return min(len(self._images), self._batches * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the iterations from here on.

        Raises:
            DualLoRAError: a negative epoch.
        """
        if epoch < 0:
            raise DualLoRAError(f"the epoch is {epoch}, expected 0 or more")
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the chosen epoch."""
        order, draws = self._drawn()
        plan = [chunk for chunk in order.split(self.batch_size) if len(chunk)][: self._batches]
        held = self._held()
        batches = self._from_files(plan, draws) if held is None else self._from_memory(held, plan, draws)
        for positions, pixels in zip(plan, batches, strict=True):
            yield normalise(pixels, self.preprocessing), self._labels[positions]

    def _held(self) -> Tensor | tuple[Tensor, ...] | None:
        """The images where they are in memory, or few enough files to get there now."""
        images, side = self._images, round(self.preprocessing.size / self.preprocessing.crop_pct)
        if isinstance(images.items, Tensor):
            return images.items
        return images.resized(self.preprocessing) if images.decoded_bytes(side) <= self._cache_bytes else None

    def _drawn(self) -> tuple[Tensor, _Draws]:
        """The order of the images, and for each image (by position in the set) its random numbers."""
        count = len(self._images)
        if not self._train:
            return torch.arange(count), None
        state = np.random.SeedSequence([self._seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        order = torch.randperm(count, generator=generator)
        if isinstance(self._transform, EvaluationTransform):
            return order, None
        return order, torch.rand(count, DRAWS, generator=generator).tolist()

    def _from_memory(self, held: Tensor | tuple[Tensor, ...], plan: list[Tensor], draws: _Draws) -> Iterator[Tensor]:
        for positions in plan:
            chosen = positions.tolist()
            if draws is None and isinstance(held, Tensor):
                yield self._transform(held[positions])  # of equal sizes: at once
            else:
                yield torch.stack([self._transform(held[i], None if draws is None else draws[i]) for i in chosen])

    def _from_files(self, plan: list[Tensor], draws: _Draws) -> Iterator[Tensor]:
        if self._loader is None:
            paths = tuple(item for item in self._images.items if isinstance(item, Path))
            self._loader = DataLoader(
                _Files(paths, self._transform, self.preprocessing),
                batch_sampler=self._sampler,
                num_workers=self._workers,
                persistent_workers=self._workers > 0 and self._train,  # many sets to measure on are held at once
                collate_fn=_collate,
                generator=torch.Generator().manual_seed(0),  # or the loader draws a seed from the global generator
            )
        self._sampler.plan = [[(i, None if draws is None else draws[i]) for i in chunk.tolist()] for chunk in plan]
        for batch in self._loader:
            if isinstance(batch, str):
                raise DualLoRAError(f"{batch}; repair or remove the file and start again")
            yield batch


class _Files(Dataset[Tensor | str]):
    """Decoded and transformed images; the error message in place of one that cannot be decoded.

    An exception would come out of a worker as the text of its trace back.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        transform: TrainingTransform | EvaluationTransform,
        preprocessing: Preprocessing,
    ) -> None:
        self.paths, self.transform, self.preprocessing = paths, transform, preprocessing

    def __getitem__(self, key: _Key) -> Tensor | str:
        index, draws = key
        try:
            image = decode(self.paths[index])
        except DualLoRAError as error:
            return str(error)
        return self.transform(resized(image, self.preprocessing), draws)


class _Planned(Sampler[list[_Key]]):
    """Hands the loader a plan made before each epoch; random numbers travel with the index, workers need no state."""

    def __init__(self) -> None:
        self.plan: list[list[_Key]] = []

    def __iter__(self) -> Iterator[list[_Key]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


def _collate(images: list[Tensor | str]) -> Tensor | str:
    tensors = []
    for image in images:
        if isinstance(image, str):
            return image
        tensors.append(image)
    return torch.stack(tensors)
