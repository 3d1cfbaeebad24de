"""Sums of vectors and of their outer products by row, in as little room as they take."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class RowMoments:
    """Sum of z and of z z^T over the vectors z (k,) of each of some rows.

    A matrix of float64 weighs as much as 2 k vectors of float32. So the vectors themselves are held until they outweigh
    the matrices: a task of a thousand classes would otherwise take k^2 numbers for each before its first image.

    >>> moments = RowMoments(2, width=3)
    >>> moments.add(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 1]))
    >>> total, outer = list(moments)[1]
    >>> total.tolist(), outer[0].tolist()
    ([4.0, 4.0, 4.0], [10.0, 8.0, 6.0])
    """

    def __init__(self, rows: int, width: int) -> None:
        """Nothing yet, of `rows` rows and vectors of `width` = k numbers."""
        self.rows, self.width = rows, width
        self._held: list[tuple[Tensor, Tensor]] = []
        self._count = 0
        self._sums: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.rows

    def add(self, z: Tensor, rows: Tensor) -> None:
        """Add vectors z (b, k), float32 on the CPU, that belong to rows (b,)."""
        self._held.append((z.contiguous(), rows))  # columns of a wider tensor would keep all of it
        self._count += len(rows)
        if self._sums is not None or self._count > 2 * self.width * self.rows:
            self._settle()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Sums (k,) and (k, k) of each row, float64, one after another."""
        held = self.vectors()
        if held is None:
            assert self._sums is not None
            yield from zip(*self._sums, strict=True)
            return
        for own in (z.double() for z in held):
            yield own.sum(0), own.T @ own

    def vectors(self) -> Iterator[Tensor] | None:
        """The vectors (n, k) of each row, one row after another; None once they are held as sums."""
        if self._sums is not None:
            return None
        z, rows = self._together()
        return (z[rows == row] for row in range(self.rows))

    def whole(self) -> tuple[Tensor, Tensor]:
        """The sums over all rows."""
        if self._sums is not None:
            return self._sums[0].sum(0), self._sums[1].sum(0)
        total, outer = torch.zeros(self.width).double(), torch.zeros(self.width, self.width).double()
        for z, _ in self._held:
            total += z.double().sum(0)
            outer.addmm_(z.double().T, z.double())
        return total, outer

    def _together(self) -> tuple[Tensor, Tensor]:
        if not self._held:
            return torch.zeros(0, self.width), torch.zeros(0, dtype=torch.int64)
        z, rows = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        self._held = [(z, rows)]
        return z, rows

    def _settle(self) -> None:
        """From vectors to sums."""
        if self._sums is None:
            shape = (self.rows, self.width)
            self._sums = torch.zeros(shape).double(), torch.zeros(*shape, self.width).double()
        z, rows = self._together()
        self._held = []
        self._sums[0].index_add_(0, rows, z.double())
        for row in rows.unique().tolist():
            own = z[rows == row].double()
            self._sums[1][row].addmm_(own.T, own)
