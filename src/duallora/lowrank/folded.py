"""Finished updates of a frozen map: added to its weight, and remembered by their factors."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank.saved import saved_tensor


class Folded(nn.Module):
    """W <- W + B_t A_t for the tasks t so far, on the outputs `first` to `first + width` of a linear map.

    However many tasks there are, a forward pass costs no more than without them.
    """

    A: Tensor
    B: Tensor

    def __init__(self, linear: nn.Linear, first: int, width: int) -> None:
        """No update yet."""
        super().__init__()
        self.linear = (linear,)  # in a tuple: it belongs to the backbone
        self.first, self.width = first, width
        self.ranks: list[int] = []
        weight = linear.weight
        self.register_buffer("A", weight.new_zeros(0, linear.in_features), persistent=False)  # (R, d), all tasks
        self.register_buffer("B", weight.new_zeros(width, 0), persistent=False)  # (width, R)

    @torch.no_grad()
    def add(self, A: Tensor, B: Tensor) -> None:
        """Fold one more update, A (k, d) and B (width, k); k may be 0."""
        weight = self.linear[0].weight
        with torch.autocast(weight.device.type, enabled=False):
            weight[self.first : self.first + self.width] += (B @ A).to(weight.dtype)
        self.A, self.B = torch.cat([self.A, A]), torch.cat([self.B, B], 1)
        self.ranks.append(len(A))

    def state(self) -> dict[str, Tensor]:
        """Factors of all tasks side by side, and the rank of each."""
        return {"A": self.A, "B": self.B, "ranks": torch.tensor(self.ranks, dtype=torch.int64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()` where nothing was folded; the folds are repeated in order, so the weight comes out equal.

        Raises:
            DualLoRAError: something is folded already, or a tensor is missing or has another shape.
        """
        if self.ranks:
            raise DualLoRAError(f"{len(self.ranks)} updates are folded already; load into a new method")
        ranks: list[int] = saved_tensor(state, "ranks", (None,), "folded updates: ").tolist()
        A = saved_tensor(state, "A", (sum(ranks), self.A.shape[1]), "folded updates: ").to(self.A)
        B = saved_tensor(state, "B", (self.width, sum(ranks)), "folded updates: ").to(self.B)
        for down, up in zip(A.split(ranks), cast(tuple[Tensor, ...], B.split(ranks, 1)), strict=True):
            self.add(down, up.contiguous())
