"""Low-rank matrices B_k A_k as directions of weight space: their lengths and angles, without ever forming one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["product", "factors"]

# Below this length a direction is none: what was never trained stays zero instead of being blown up.
_SMALLEST = 1e-12


def _members(owner: Tensor, count: int) -> Tensor:
    """(R, count) with a one where a rank belongs to a direction; sums over the ranks of each."""
    return (owner.unsqueeze(1) == torch.arange(count, device=owner.device)).float()


def gram(A: Tensor, B: Tensor, owner: Tensor, count: int) -> Tensor:
    """Inner products <B_j A_j, B_k A_k>_F of all directions: (count, count).

    With tr((B_j A_j)^T B_k A_k) = sum of (B_j^T B_k) * (A_j A_k^T), elementwise, it costs products of rank size only.

    Args:
        A: (R, d), the A_k on top of each other.
        B: (rows, R), the B_k beside each other.
        owner: (R,) which direction k each rank belongs to.
        count: number of directions.
    """
    sums = _members(owner, count).to(A)
    return sums.T @ ((B.T @ B) * (A @ A.T)) @ sums


def lengths(A: Tensor, B: Tensor, owner: Tensor, count: int, norm: Norm) -> Tensor:
    """||B_k A_k||_F of each direction ("product"), or ||B_k||_F ||A_k||_F, which is no less ("factors"): (count,).

    >>> A, B = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.eye(2)
    >>> one = torch.tensor([0, 0])
    >>> lengths(A, B, one, 1, "product").item(), round(lengths(A, B, one, 1, "factors").item(), 3)
    (5.0, 7.071)
    """
    sums = _members(owner, count).to(A)
    # Clamped under the root: its derivative at zero is infinite.
    if norm == "product":
        return (((B.T @ B) * (A @ A.T)) @ sums * sums).sum(0).clamp_min(_SMALLEST**2).sqrt()
    return ((A.square().sum(1) @ sums) * (B.square().sum(0) @ sums)).clamp_min(_SMALLEST**2).sqrt()


def divisors(A: Tensor, B: Tensor, owner: Tensor, count: int, norm: Norm) -> Tensor:
    """`lengths`, and one for a direction that has none: divided again and again it would end at infinity times zero.

    >>> A, B, one = torch.ones(1, 4), torch.zeros(3, 1), torch.tensor([0])
    >>> divisors(A, B, one, 1, "factors").item()
    1.0
    """
    found = lengths(A, B, owner, count, norm)
    return torch.where(found > 2 * _SMALLEST, found, torch.ones_like(found))


def combination(G: Tensor) -> tuple[Tensor, float]:
    """The last direction as a least-squares combination of the others.

    Args:
        G: (K, K) inner products of the directions, float64.

    Returns:
        Coefficients (K - 1,) and the share ||D_K - sum_k c_k D_k||^2 / ||D_K||^2 that they leave over, in [0, 1].

    >>> c, rest = combination(torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64))
    >>> c.tolist(), rest
    ([0.5], 0.75)
    """
    cross, square = G[:-1, -1], G[-1, -1]
    c = torch.linalg.pinv(G[:-1, :-1], hermitian=True) @ cross
    rest = (square - c @ cross).clamp_min(0) / square.clamp_min(_SMALLEST**2)
    return c, float(rest)
