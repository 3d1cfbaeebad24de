"""Each class's own covariance of the final feature: what turns the linear discriminant into a quadratic one."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.methods.gaussian import ClassGaussians

ROWS_AT_ONCE = 64  # rows whose quadratic forms are computed together: bounds the memory of a batch


class ClassCovariances:
    """Covariances S_r of the first d features of every row, and the quadratic term that they add to the scores.

    A class of n images does not fix d (d + 1) / 2 numbers, so S_r is drawn towards the shared covariance Sigma:
    Sigma_r = (k d Sigma + (n - 1) S_r) / (k d + n - 1), the posterior mean under an inverse-Wishart prior worth k d
    images (as regularised discriminant analysis, Friedman 1989, with a weight that follows the number of images). The
    score of row r changes by

        -(x - mu_r)^T (Sigma_r^-1 - Sigma^-1) (x - mu_r) / 2 - log(|Sigma_r| / |Sigma|) / 2

    on the d features alone: on those, linear and quadratic term together are the log-density under N(mu_r, Sigma_r).
    Only a triangle of S_r is kept, float32: d (d + 1) / 2 numbers per row.
    """

    def __init__(self, dim: int, prior: float = 4.0) -> None:
        """No rows yet; `prior` is k."""
        self.dim, self.prior = dim, prior
        self.packed = torch.zeros(0, dim * (dim + 1) // 2)
        self._sums = torch.zeros(0, dim, dim, dtype=torch.float64)  # of x x^T, for the rows not yet sealed
        self._solved: tuple[Tensor, Tensor, Tensor] | None = None

    def grow(self, rows: int) -> None:
        """Make room for the rows of a new task."""
        self._sums = torch.zeros(rows, self.dim, self.dim, dtype=torch.float64)

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, D) that belong to the newest task's rows (b,), counted from 0."""
        x, rows = features.detach()[:, : self.dim].to("cpu", torch.float64), rows.cpu()
        for row in rows.unique().tolist():
            own = x[rows == row]
            self._sums[row] += own.T @ own

    def seal(self, gaussians: ClassGaussians) -> None:
        """End of a task: from the sums of its rows, the last of `gaussians`, to their covariances."""
        first = len(gaussians) - len(self._sums)
        n, means = gaussians.counts[first:, None, None], gaussians.means[first:, : self.dim]
        S = (self._sums - n * means.unsqueeze(2) * means.unsqueeze(1)) / (n - 1).clamp_min(1)
        i, j = torch.tril_indices(self.dim, self.dim)
        self.packed = torch.cat([self.packed, S[:, i, j].float()])
        self._sums, self._solved = self._sums[:0], None

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

    def _solve(self, gaussians: ClassGaussians) -> tuple[Tensor, Tensor, Tensor]:
        """Sigma_r^-1 - Sigma^-1 (R, d, d), log(|Sigma_r| / |Sigma|) / 2 (R,) and mu_r (R, d), float32."""
        if self._solved is None:
            Sigma = gaussians.covariance()[: self.dim, : self.dim]
            L = torch.linalg.cholesky(Sigma)
            shared, level = torch.cholesky_inverse(L), L.diagonal().log().sum()
            forms, levels = [], []
            freedom = (gaussians.counts - 1).clamp_min(0)
            for r in range(len(self.packed)):  # one after another: all at once would take R d^2 float64 several times
                weight = freedom[r] / (self.prior * self.dim + freedom[r])
                own = torch.linalg.cholesky((1 - weight) * Sigma + weight * self.covariance(r))
                forms.append((torch.cholesky_inverse(own) - shared).float())
                levels.append((own.diagonal().log().sum() - level).float())
            means = gaussians.means[:, : self.dim].float()
            self._solved = (torch.stack(forms), torch.stack(levels), means)
        return self._solved

    def correction(self, features: Tensor, gaussians: ClassGaussians) -> Tensor:
        """What the quadratic term adds to the scores: (b, D) -> (b, R)."""
        x = features[:, : self.dim].float()
        forms, levels, means = (t.to(x.device) for t in self._solve(gaussians))
        self._solved = (forms, levels, means)  # moved once, not for every batch
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            split = (t.split(ROWS_AT_ONCE) for t in (forms, levels, means))  # views: forms are large
            for M, level, mu in zip(*split, strict=True):  # (r, d, d), (r,), (r, d)
                away = x.unsqueeze(0) - mu.unsqueeze(1)  # (r, b, d)
                parts.append(-0.5 * ((away @ M) * away).sum(2).T - level)
        return torch.cat(parts, 1)

    def state(self) -> dict[str, Tensor]:
        """Covariances as triangles."""
        return {"packed": self.packed}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.packed = state["packed"].clone()
        self._sums, self._solved = self._sums[:0], None
