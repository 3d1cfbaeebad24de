"""Deterministic choices of images, class by class."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from duallora.errors import DualLoRAError


def hold_out(labels: Tensor, classes: Sequence[str], share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split images in two, the same share of every class being held out.

    Of a class with two images or more at least one is held out and at least one kept; a class with one image keeps it.
    What is drawn of a class depends on its name, its number of images and the seed only, not on the other classes.

    Args:
        labels: (n,) int64, indices into `classes`.
        classes: the names of the classes.
        share: in [0, 1), the share held out; 0 holds nothing out.
        seed: not negative.

    Returns:
        The positions kept and the positions held out, each ascending.

    Raises:
        DualLoRAError: share outside [0, 1), or a negative seed.

    >>> kept, held = hold_out(torch.tensor([0, 0, 0, 0, 1]), ["cat", "dog"], 0.25)
    >>> len(kept), len(held)
    (4, 1)
    """
    if not 0 <= share < 1:
        raise DualLoRAError(f"the share of images held out is {share}, expected 0 <= share < 1, for instance 0.2")
    kept, held = [], []
    for positions in _shuffled(labels, classes, seed):
        count = min(max(1, round(share * len(positions))), len(positions) - 1) if share else 0
        held.append(positions[:count])
        kept.append(positions[count:])
    return _ascending(kept), _ascending(held)


def at_most(labels: Tensor, classes: Sequence[str], limit: int, seed: int = 0) -> Tensor:
    """Positions (ascending) of at most `limit` images of each class, drawn as in `hold_out`.

    Raises:
        DualLoRAError: a limit below 1, or a negative seed.
    """
    if limit < 1:
        raise DualLoRAError(f"the most images per class is {limit}, expected 1 or more")
    return _ascending([positions[:limit] for positions in _shuffled(labels, classes, seed)])


def _shuffled(labels: Tensor, classes: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    if seed < 0:
        raise DualLoRAError(f"the seed is {seed}, expected 0 or more")
    values = labels.numpy()
    for index, name in enumerate(classes):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        yield rng.permutation(np.flatnonzero(values == index))


def _ascending(parts: list[np.ndarray]) -> Tensor:
    joined = np.concatenate(parts) if parts else np.empty(0)
    return torch.from_numpy(np.sort(joined).astype(np.int64))
