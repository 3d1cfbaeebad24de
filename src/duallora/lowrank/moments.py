"""Streaming second moments of features."""

from __future__ import annotations

import torch
from torch import Tensor


class SecondMoment:
    """The uncentred second moment C = E[x x^T] of a stream of d-dimensional row vectors.

    One matrix product per batch on the features' device in float32, summed in float64: the result does not depend on
    how the stream was cut into batches beyond float32 rounding of a batch, and no feature is stored.

    >>> import torch
    >>> moment = SecondMoment(2)
    >>> moment.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> moment.value()
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]], dtype=torch.float64)
    """

    def __init__(self, dim: int) -> None:
        """Start empty; `dim` is d."""
        self.sum: Tensor = torch.zeros(dim, dim, dtype=torch.float64)
        self.count = 0

    def update(self, x: Tensor) -> None:
        """Add features x (..., d); leading axes are flattened."""
        rows = x.detach().reshape(-1, x.shape[-1])
        if rows.dtype != torch.float64:
            rows = rows.float()
        with torch.autocast(rows.device.type, enabled=False):
            self.sum += (rows.T @ rows).cpu().double()
        self.count += len(rows)

    def merge(self, other: SecondMoment) -> None:
        """Add what another process or shard has collected."""
        self.sum += other.sum
        self.count += other.count

    def value(self) -> Tensor:
        """C (d, d), float64; zeros when nothing was added."""
        return self.sum / max(self.count, 1)
