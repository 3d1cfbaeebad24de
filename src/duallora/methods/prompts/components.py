"""CODA-Prompt's components: how a query weighs them, how they are kept apart, how new ones start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SPANNED = 1e-4  # below this share of its length outside the span of the others, a vector counts as inside it


def weights(query: Tensor, A: Tensor, K: Tensor) -> Tensor:
    """alpha_m = cos(q * A_m, K_m) (Smith et al. 2023, arXiv 2211.13218): query (b, d), A and K (M, d) -> (b, M).

    Sums over d become matrix products: no (b, M, d) tensor is made. Float32 even under autocast.

    >>> weights(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000]])
    """
    with torch.autocast(query.device.type, enabled=False):
        q, A = query.float(), A.float()
        lengths = (q.square() @ A.square().T).clamp_min(1e-24).sqrt()  # ||q * A_m||
        return q @ (A * F.normalize(K.float(), dim=1)).T / lengths


def penalty(rows: Tensor) -> Tensor:
    """Mean of (B B^T - I)^2 over the entries, for components B (M, ...) as rows."""
    with torch.autocast(rows.device.type, enabled=False):
        B = rows.float().flatten(1)
        return (B @ B.T - torch.eye(len(B), device=B.device)).square().mean()


def gram_schmidt(earlier: Tensor, count: int) -> Tensor:
    """Random unit rows, orthogonal to earlier rows (M, ...) and to one another: (count, ...), float32 on the CPU.

    Once all directions are taken, further rows are random unit vectors.
    """
    taken = earlier.detach().cpu().double().flatten(1)
    wide = taken.shape[1]
    basis, new = torch.zeros(0, wide, dtype=torch.float64), []
    for row in [*taken, *torch.randn(count, wide, dtype=torch.float64)]:
        rest = row - (basis @ row) @ basis
        rest = rest - (basis @ rest) @ basis  # twice, against rounding
        fresh = len(basis) < wide and bool(rest.norm() > SPANNED * row.norm())
        if fresh:
            basis = torch.cat([basis, F.normalize(rest, dim=0).unsqueeze(0)])
        new.append(basis[-1] if fresh else F.normalize(row, dim=0))
    return torch.stack(new[len(taken) :]).float().reshape(count, *earlier.shape[1:])
