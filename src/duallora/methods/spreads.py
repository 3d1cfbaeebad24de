"""How each class spreads beyond what all classes share: what turns the linear discriminant into a quadratic one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from duallora.methods.gaussian import ClassGaussians

WIDE = 384  # of narrower networks' features take as many: their final feature alone tells classes' spreads apart badly
DIRECTIONS = 64  # kept per row; more told no more apart
ROWS_AT_ONCE = 128  # rows whose quadratic forms are computed together: bounds the memory of a batch


def spread_width(dim: int, features: int) -> int:
    """k: of how many of the `features` = D, of which the network's own are the first `dim` = d, spreads are kept.

    >>> spread_width(192, 2304), spread_width(192, 192), spread_width(768, 1536)
    (384, 192, 768)
    """
    return min(features, max(dim, WIDE))


class ClassSpreads:
    """What a class's own covariance S_r is beside the shared one, Sigma, on the first k features.

    With Sigma = L L^T as it is when the row's task ends, and l_1 >= ... >= l_k eigenvalues and u_i eigenvectors of
    L^-1 S_r L^-T, the q first directions count one by one and the others by their mean rho_r, as in probabilistic
    principal component analysis (Tipping & Bishop 1999) in the coordinates where Sigma is the identity:

        S_r ~ rho_r Sigma + C_r^T C_r,  rows of C_r (q, k): sqrt(l_i - rho_r) L u_i.

    A class of n images fixes even this badly, so its covariance counts as Sigma_r = (1 - w_r) Sigma + w_r S_r with
    w_r = (n - 1) / (prior k + n - 1), the posterior mean under an inverse-Wishart prior worth `prior` k images
    (regularised discriminant analysis, Friedman 1989, with a weight that follows the number of images). Sigma there is
    the present one: old rows follow it. The score of row r changes by

        (x - mu_r)^T (Sigma^-1 - Sigma_r^-1) (x - mu_r) / 2 - log(|Sigma_r| / |Sigma|) / 2.
    """

    def __init__(self, width: int, prior: float = 2.0) -> None:
        """No rows yet; `width` is k."""
        self.width, self.prior = width, prior
        self.factors = torch.zeros(0, min(DIRECTIONS, width - 1), width)  # C, (R, q, k) float32
        self.rest = torch.zeros(0)  # rho, (R,)
        self._sums = torch.zeros(0, width, width, dtype=torch.float64)  # of x x^T, for the rows not yet sealed
        self._solved: tuple[Tensor, ...] | None = None

    def grow(self, rows: int) -> None:
        """Make room for the rows of a new task."""
        self._sums = torch.zeros(rows, self.width, self.width, dtype=torch.float64)

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, D) that belong to the newest task's rows (b,), counted from 0."""
        x, rows = features.detach()[:, : self.width].to("cpu", torch.float64), rows.cpu()
        for row in rows.unique().tolist():
            own = x[rows == row]
            self._sums[row].addmm_(own.T, own)

    def seal(self, gaussians: ClassGaussians) -> None:
        """End of a task: from the sums of its rows, the last of `gaussians`, to their factors."""
        first = len(gaussians) - len(self._sums)
        n, mu = gaussians.counts[first:, None, None], gaussians.means[first:, : self.width]
        self.add((self._sums - n * mu.unsqueeze(2) * mu.unsqueeze(1)) / (n - 1).clamp_min(1), gaussians)
        self._sums = self._sums[:0]

    def add(self, covariances: Tensor, gaussians: ClassGaussians) -> None:
        """New rows by their own covariances S (r, k, k), float64."""
        k, q = self.width, self.factors.shape[1]
        L = torch.linalg.cholesky(gaussians.covariance()[:k, :k])
        for S in covariances:
            white = torch.linalg.solve_triangular(L, torch.linalg.solve_triangular(L, S, upper=False).T, upper=False)
            values, vectors = torch.linalg.eigh(white)  # ascending
            rho = values[: k - q].mean().clamp_min(0)
            C = (L @ vectors[:, k - q :] * (values[k - q :] - rho).clamp_min(0).sqrt()).T
            self.factors = torch.cat([self.factors, C.float().unsqueeze(0)])
            self.rest = torch.cat([self.rest, rho.float().reshape(1)])
        self._solved = None

    def _solve(self, gaussians: ClassGaussians) -> tuple[Tensor, ...]:
        """Lambda (k, k), Lambda mu (R, k), mu Lambda mu (R,), A (R, q, k), A mu (R, q), s (R,), level (R,); float32.

        With Lambda = Sigma^-1 and s = (1 - w) + w rho, Sigma_r is s (Sigma + w / s C^T C); by Woodbury's formula
        Lambda - Sigma_r^-1 is (1 - 1 / s) Lambda + A^T A. The level is log(|Sigma_r| / |Sigma|) / 2.
        """
        if self._solved is None:
            L = torch.linalg.cholesky(gaussians.covariance()[: self.width, : self.width])
            Lambda, mu = torch.cholesky_inverse(L), gaussians.means[:, : self.width]
            freedom = (gaussians.counts - 1).clamp_min(0)
            w = freedom / (self.prior * self.width + freedom)
            s = 1 - w + w * self.rest.double()
            rows = []
            for C, share, scale, at in zip(*(t.split(ROWS_AT_ONCE) for t in (self.factors, w / s, s, mu)), strict=True):
                beyond = share.sqrt()[:, None, None] * C.double()
                Z = torch.linalg.solve_triangular(L, beyond.mT, upper=False)  # (r, k, q): Sigma_r = s L (I + Z Z^T) L^T
                M = torch.linalg.cholesky(torch.eye(Z.shape[2], dtype=Z.dtype) + Z.mT @ Z)  # (r, q, q)
                A = torch.linalg.solve_triangular(M, torch.linalg.solve_triangular(L.T, Z, upper=True).mT, upper=False)
                A = A / scale.sqrt()[:, None, None]
                level = M.diagonal(dim1=1, dim2=2).log().sum(1) + self.width / 2 * scale.log()
                rows.append([t.float() for t in (A, (A @ at.unsqueeze(2)).squeeze(2), level)])
            A, offset, level = (torch.cat(part) for part in zip(*rows, strict=True))
            right = mu @ Lambda
            self._solved = (Lambda.float(), right.float(), (right * mu).sum(1).float(), A, offset, s.float(), level)
        return self._solved

    def correction(self, features: Tensor, gaussians: ClassGaussians) -> Tensor:
        """What the quadratic term adds to the scores: (b, D) -> (b, R)."""
        x = features[:, : self.width].float()
        self._solved = tuple(t.to(x.device) for t in self._solve(gaussians))  # moved once, not for every batch
        Lambda, right, norm, A, offset, s, level = self._solved
        along = []
        with torch.autocast(x.device.type, enabled=False):
            distance = ((x @ Lambda) * x).sum(1, keepdim=True) - 2 * x @ right.T + norm  # (b, R), under Sigma
            for forms, at in zip(A.split(ROWS_AT_ONCE), offset.split(ROWS_AT_ONCE), strict=True):
                away = F.linear(x, forms.flatten(0, 1), -at.flatten())  # (b, r q)
                along.append(away.unflatten(1, at.shape).square().sum(2))
            return 0.5 * ((1 - 1 / s) * distance + torch.cat(along, 1)) - level

    def state(self) -> dict[str, Tensor]:
        """Factors, and what the other directions come to."""
        return {"factors": self.factors, "rest": self.rest}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`, of any width k."""
        self.width = state["factors"].shape[2]
        self.factors, self.rest = state["factors"].clone(), state["rest"].clone()
        self._sums, self._solved = self._sums[:0], None
