"""Each class's own covariance of the final feature: what classifier alignment draws features with."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.lowrank.saved import saved_tensor
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.moments import RowMoments


class ClassCovariances:
    """Covariances S_r of the first d features of every row.

    Only a triangle of S_r is kept, float32: d (d + 1) / 2 numbers per row.
    """

    def __init__(self, dim: int) -> None:
        """No rows yet; `dim` is d."""
        self.dim = dim
        self.packed = torch.zeros(0, dim * (dim + 1) // 2)
        self._moments = RowMoments(0, dim)  # for the rows not yet sealed

    def grow(self, rows: int) -> None:
        """Make room for the rows of a new task."""
        self._moments = RowMoments(rows, self.dim)

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, D) that belong to the newest task's rows (b,), counted from 0."""
        self._moments.add(features.detach()[:, : self.dim].to("cpu", torch.float32), rows.cpu())

    def seal(self, gaussians: ClassGaussians) -> None:
        """End of a task: from the sums of its rows, the last of `gaussians`, to their covariances."""
        first = len(gaussians) - len(self._moments)
        counts, means = gaussians.counts[first:], gaussians.means[first:, : self.dim]
        i, j = torch.tril_indices(self.dim, self.dim)
        packed = [self.packed]
        for n, mean, (_, outer) in zip(counts, means, self._moments, strict=True):
            S = (outer - n * torch.outer(mean, mean)) / (n - 1).clamp_min(1)
            packed.append(S[i, j].float().unsqueeze(0))
        self.packed = torch.cat(packed)
        self.grow(0)

    def covariance(self, row: int) -> Tensor:
        """S_r (d, d), float64."""
        held = self.packed[row].double()
        S = held.new_zeros(self.dim, self.dim)
        i, j = torch.tril_indices(self.dim, self.dim)
        S[i, j] = S[j, i] = held
        return S

    def factor(self, row: int, ridge: float) -> Tensor:
        """Cholesky factor L (d, d) of S_r + ridge I, lower triangular, float32.

        L z has that covariance for normal z.
        """
        S = self.covariance(row)
        # What rounding to float32 took must not leave a negative eigenvalue, however large S and small the ridge.
        least = max(ridge, 1e-6 * float(S.diagonal().mean()), 1e-12)
        L: Tensor = torch.linalg.cholesky(S + least * torch.eye(self.dim, dtype=torch.float64))
        return L.float()

    def state(self) -> dict[str, Tensor]:
        """Covariances as triangles."""
        return {"packed": self.packed}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.packed = saved_tensor(state, "packed", (None, self.packed.shape[1]), "covariances.").clone()
        self.grow(0)
