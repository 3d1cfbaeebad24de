"""k-means, the same on every machine: float64 on the CPU, from seeds drawn by a generator of its own."""

from __future__ import annotations

import torch
from torch import Tensor

RESTARTS = 10  # from other seeds; the result with the least scatter is kept
STEPS = 300  # of one start at most


def kmeans(x: Tensor, k: int, seed: int = 0) -> Tensor:
    """Centroids (k, d), float64, of points (n, d): Lloyd's iterations from k-means++ seeds (Arthur 2007).

    Where there are no more than k points, they are the centroids, some of them more than once.

    >>> kmeans(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 2).sort(0).values.flatten().tolist()
    [0.5, 10.5]
    """
    x = x.detach().cpu().double()
    if len(x) <= k:
        return x[torch.arange(k) % len(x)]
    generator = torch.Generator().manual_seed(seed)
    starts = [_lloyd(x, _seeds(x, k, generator)) for _ in range(RESTARTS)]
    return min(starts, key=lambda pair: pair[1])[0]


def _seeds(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k of the points, each drawn with a chance that grows with the squared distance to those before it."""
    chosen = x[torch.randint(len(x), (1,), generator=generator)]
    while len(chosen) < k:
        chance = torch.cdist(x, chosen).square().amin(1)
        if chance.sum() <= 0:  # copies of the points chosen so far
            chance = torch.ones_like(chance)
        chosen = torch.cat([chosen, x[torch.multinomial(chance, 1, generator=generator)]])
    return chosen


def _lloyd(x: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """Assign and average until nothing changes; returns the centroids and the scatter around them."""
    nearest = torch.full((len(x),), -1)
    for _ in range(STEPS):
        before = nearest
        distance, nearest = torch.cdist(x, centroids).min(1)
        if torch.equal(before, nearest):
            break
        counts = torch.bincount(nearest, minlength=len(centroids))
        centroids = torch.zeros_like(centroids).index_add_(0, nearest, x) / counts.clamp_min(1).unsqueeze(1)
        empty = (counts == 0).nonzero().flatten()
        centroids[empty] = x[distance.topk(len(empty)).indices]  # an empty cluster starts anew at an outlier
    return centroids, float(torch.cdist(x, centroids).amin(1).square().sum())
