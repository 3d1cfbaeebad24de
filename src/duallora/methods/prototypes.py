"""Class prototypes in one subspace per task, and those that nobody could measure, as EASE fills them in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def complement(measured: Sequence[Tensor], fresh: bool = True) -> Tensor:
    """Prototypes of all rows in all subspaces: (R, T, d).

    A class of task i was seen when the subspaces 0 .. i existed; in a later one, s, it has no prototype. What is like
    it in subspace i is assumed to be like it in s: with j over classes measured in both,
    p_s = sum_j softmax_j(cos(p_i, p_i^j)) p_s^j.

    Args:
        measured: for each task i, (classes, i + 1, d).
        fresh: j runs over the classes of task s and of all later ones, as far as they came by now; else over those of
            task s alone, as when s was new.
    """
    counts, tasks = [len(p) for p in measured], len(measured)
    first = [sum(counts[:i]) for i in range(tasks + 1)]
    full = torch.zeros(first[-1], tasks, measured[0].shape[-1]).to(measured[0])
    for i, prototypes in enumerate(measured):
        full[first[i] : first[i + 1], : i + 1] = prototypes
    for i in range(tasks):
        for s in range(i + 1, tasks):
            rows, others = slice(first[i], first[i + 1]), slice(first[s], first[-1] if fresh else first[s + 1])
            likeness = F.normalize(full[rows, i], dim=1) @ F.normalize(full[others, i], dim=1).T
            full[rows, s] = torch.softmax(likeness, 1) @ full[others, s]
    return full


def shares(owner: Tensor, subspaces: int, alpha: float) -> Tensor:
    """Weight of each subspace in each row's score, (R, T): 1 for the row's own, alpha in all for the others.

    >>> shares(torch.tensor([0, 2]), 3, 0.5).tolist()
    [[1.0, 0.25, 0.25], [0.25, 0.25, 1.0]]
    """
    weights = torch.full((len(owner), subspaces), alpha / max(subspaces - 1, 1))
    return weights.scatter(1, owner.unsqueeze(1), 1.0)
