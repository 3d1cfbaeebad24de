"""Class Gaussians that also hold every row's own covariance, to draw features from."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.methods.gaussian import ClassGaussians


class ClassSpread(ClassGaussians):
    """`ClassGaussians` with, for each row, the Cholesky factor L of its own covariance: L L^T = Sigma_r + ridge I.

    It is that of the first d features (`own`; all by default). Only the factor is kept, as its lower triangle in
    float32: d (d + 1) / 2 numbers per row. Sigma_r is the unbiased
    covariance of the row's features; a row of one image has none and takes the shared one.

    >>> import torch
    >>> spread = ClassSpread(2, ridge=1.0)
    >>> spread.grow(1)
    >>> spread.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    >>> spread.seal()
    >>> (spread.factor(0) @ spread.factor(0).T).round(decimals=4).tolist()
    [[3.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, dim: int, shrinkage: float | str = "oas", ridge: float = 1e-4, own: int | None = None) -> None:
        """No rows yet."""
        super().__init__(dim, shrinkage)
        self.ridge, self.own = ridge, own or dim
        self.factors = torch.zeros(0, self.own * (self.own + 1) // 2)
        self._own = torch.zeros(0, self.own, self.own, dtype=torch.float64)  # sums of x x^T of rows not yet sealed

    def grow(self, rows: int) -> None:
        """Add empty rows."""
        super().grow(rows)
        self._own = torch.zeros(rows, self.own, self.own, dtype=torch.float64)

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, d) that belong to rows (b,) of the newest task."""
        super().update(features, rows)
        x, rows = features.detach()[:, : self.own].to("cpu", torch.float64), rows.cpu()
        first = len(self) - len(self._own)
        for row in rows.unique().tolist():
            own = x[rows == row]
            self._own[row - first] += own.T @ own

    def seal(self) -> None:
        """End of a task: from the sums of its rows to their factors."""
        first, d = len(self) - len(self._own), self.own
        n, means = self.counts[first:, None, None], self.means[first:, :d]
        sigma = (self._own - n * means.unsqueeze(2) * means.unsqueeze(1)) / (n - 1).clamp_min(1)
        sigma[self.counts[first:] < 2] = self.covariance()[:d, :d]
        # What rounding took must not leave a negative eigenvalue, however large the features and small the ridge.
        spread = sigma.diagonal(dim1=1, dim2=2).mean(1)
        ridge = (1e-9 * spread).clamp_min(max(self.ridge, 1e-12))[:, None, None]
        factors = torch.linalg.cholesky(sigma + ridge * torch.eye(d, dtype=torch.float64))
        i, j = torch.tril_indices(d, d)
        self.factors = torch.cat([self.factors, factors[:, i, j].float()])
        self._own = self._own[:0]

    def factor(self, row: int) -> Tensor:
        """L (d, d) of a row, lower triangular, float32."""
        factor = torch.zeros(self.own, self.own)
        i, j = torch.tril_indices(self.own, self.own)
        factor[i, j] = self.factors[row]
        return factor

    def state(self) -> dict[str, Tensor]:
        """Sums and factors."""
        return super().state() | {"factors": self.factors}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        super().load_state(state)
        self.factors = state["factors"].clone()
        self._own = self._own[:0]
