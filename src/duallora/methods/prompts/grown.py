"""Parameters that get rows with every task."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import State


class Grown(nn.Module):
    """Rows of any shape: those of earlier tasks are frozen, those of the newest one train.

    >>> rows = Grown(3)
    >>> rows.grow(torch.ones(2, 3)); rows.grow(torch.zeros(1, 3))
    >>> rows().shape, rows.newest.shape
    (torch.Size([3, 3]), torch.Size([1, 3]))
    """

    earlier: Tensor

    def __init__(self, *shape: int) -> None:
        """No rows yet; `shape` is that of one row."""
        super().__init__()
        self.register_buffer("earlier", torch.zeros(0, *shape))
        self.newest = nn.Parameter(torch.zeros(0, *shape), requires_grad=False)

    @property
    def width(self) -> int:
        """Numbers in one row."""
        return math.prod(self.earlier.shape[1:])

    def grow(self, rows: Tensor) -> None:
        """Freeze what there is and add rows (n, ...) that train."""
        device = self.earlier.device
        self.earlier = self().detach()
        self.newest = nn.Parameter(rows.detach().clone().to(device))

    def forward(self) -> Tensor:
        """All rows; gradients reach the newest only."""
        return torch.cat([self.earlier, self.newest])

    def load(self, state: State, name: str) -> None:
        """Restore all rows, frozen, from the tensor of that name.

        Raises:
            DualLoRAError: the tensor is missing or its rows have another shape.
        """
        rows = saved_tensor(state, name, (None, *self.earlier.shape[1:]))
        self.earlier = rows.detach().clone().to(self.earlier.device)
        self.newest = nn.Parameter(self.earlier[:0].clone(), requires_grad=False)
