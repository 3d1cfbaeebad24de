"""The residual adapters: one per task, confined to a basis, all of them one concatenated low-rank product."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualAdapter(nn.Module):
    """x -> sum over tasks t of g_t(x) x A_t^T B_t^T, with A_t = Z_t Psi^T for a basis Psi given at the task's begin.

    The factors of finished tasks are frozen and concatenated, so that the cost is that of one skinny product of rank
    r T, without a loop over tasks. A gate scales the r hidden values of its task, which is as good as scaling its
    output.
    """

    A: Tensor
    B: Tensor
    owner: Tensor
    basis: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        """No task yet."""
        super().__init__()
        self.register_buffer("A", torch.zeros(0, inputs), persistent=False)  # (R, d), finished tasks
        self.register_buffer("B", torch.zeros(outputs, 0), persistent=False)  # (rows, R)
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64), persistent=False)  # (R,), task of each rank
        self.register_buffer("basis", torch.zeros(inputs, 0), persistent=False)
        self.Z: nn.Parameter | None = None
        self.B_new: nn.Parameter | None = None
        self.task = -1

    def begin(self, task: int, basis: Tensor, rank: int) -> None:
        """Train a new residual inside span(basis), basis (d, k) orthonormal; nothing trains where k = 0."""
        self.task, self.basis = task, basis.float()
        if basis.shape[1]:
            self.Z = nn.Parameter(torch.empty(rank, basis.shape[1], device=basis.device))
            self.B_new = nn.Parameter(torch.zeros(self.B.shape[0], rank, device=basis.device))
            nn.init.kaiming_uniform_(self.Z, a=math.sqrt(5))

    def _down(self) -> Tensor | None:
        """A_t (r, d) of the task in training."""
        if self.Z is None:
            return None
        with torch.autocast(self.Z.device.type, enabled=False):
            return self.Z @ self.basis.T

    def end(self) -> None:
        """Freeze the task's factors and join them to the others."""
        down = self._down()
        if down is not None and self.B_new is not None:
            self.A = torch.cat([self.A, down.detach()])
            self.B = torch.cat([self.B, self.B_new.detach()], 1)
            self.owner = torch.cat([self.owner, torch.full((len(down),), self.task, device=self.owner.device)])
        self.Z = self.B_new = None

    @property
    def rank(self) -> int:
        """Ranks of all tasks together, the one in training included."""
        return len(self.owner) + (0 if self.Z is None else len(self.Z))

    def factors(self, gates: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """A (R, d) and B (rows, R) of all tasks and the weight (b, R) of each rank, None for all ones.

        Args:
            gates: (b, T) in [0, 1], a weight for each task's residual; None is all ones. The task in training counts
                as 1.
        """
        A, B = self.A, self.B
        scale = gates[:, self.owner] if gates is not None and len(self.owner) else None
        down = self._down()
        if down is not None and self.B_new is not None:
            A, B = torch.cat([A, down]), torch.cat([B, self.B_new], 1)
            if scale is not None:
                scale = torch.cat([scale, scale.new_ones(len(scale), len(down))], 1)
        return A, B, scale

    def forward(self, x: Tensor, gates: Tensor | None) -> Tensor:
        """The update of x (b, N, d): (b, N, rows); gates as in `factors`."""
        y = x.new_zeros(*x.shape[:-1], self.B.shape[0])
        add_gated(y, x, *self.factors(gates))
        return y

    def merged(self) -> Tensor:
        """sum over tasks of B_t A_t (rows, d): what all gates at 1 add to the map."""
        return self.B @ self.A


def add_gated(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: Tensor | None) -> None:
    """y += (x A^T * scale) B^T in place: one low-rank product, each rank weighted per image.

    The product is summed straight into y, which may be a part of a wider map's output: half the time of writing it
    out and adding it.

    Args:
        y: (b, N, rows), last dimension dense.
        x: (b, N, d), in the precision of y.
        A: (R, d).
        B: (rows, R).
        scale: (b, R), or None for all ones.
    """
    hidden = F.linear(x, A)
    if scale is not None:
        hidden = hidden * scale.unsqueeze(1).to(hidden.dtype)
    hidden = hidden.to(y.dtype)
    y.view(-1, y.shape[-1]).addmm_(hidden.flatten(0, 1), B.T.to(y.dtype))
