"""The orthogonal adapter: an update that cannot see what earlier tasks use."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank import project_out


class OrthogonalAdapter(nn.Module):
    """x -> x A_o^T B_o^T with A_o = Z (I - Phi Phi^T): orthogonal to the earlier tasks' bases by construction.

    The constraint is a parametrisation: it holds to rounding at every step under any optimiser, where projecting
    gradients would not hold under Adam or weight decay. It is computed in float32 even under autocast.

    Args:
        basis: Phi (d, k), orthonormal columns.
        outputs: rows of the update.
        rank: r.

    >>> import torch
    >>> adapter = OrthogonalAdapter(torch.eye(6)[:, :2], outputs=3, rank=2)
    >>> bool((adapter.down() @ torch.eye(6)[:, :2]).abs().max() < 1e-6)
    True
    """

    Phi: Tensor

    def __init__(self, basis: Tensor, outputs: int, rank: int) -> None:
        """Z Kaiming-uniform, B_o = 0: the update starts at zero."""
        super().__init__()
        self.register_buffer("Phi", basis.float(), persistent=False)
        self.Z = nn.Parameter(torch.empty(rank, basis.shape[0], device=basis.device))
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=basis.device))
        nn.init.kaiming_uniform_(self.Z, a=math.sqrt(5))

    def down(self) -> Tensor:
        """A_o (r, d)."""
        with torch.autocast(self.Z.device.type, enabled=False):
            return project_out(self.Z, self.Phi)

    def forward(self, x: Tensor) -> Tensor:
        """The update of x (..., d): (..., rows)."""
        return F.linear(F.linear(x, self.down()), self.B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A_o (r, d) and B_o (rows, r), detached, for folding: W_O <- W_O + B_o A_o."""
        return self.down().detach().clone(), self.B.detach().clone()
