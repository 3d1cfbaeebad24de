"""Class Gaussians with a shared covariance: the read-out that all methods can carry."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from duallora.lowrank.saved import saved_tensor


class ClassGaussians:
    """Row means and one pooled covariance, summed in a stream; scores are those of linear discriminant analysis.

    Sums are kept in float64 on the CPU, so that the result does not depend on the batches. With Lambda = Sigma^-1 the
    score of row r is x Lambda mu_r - mu_r Lambda mu_r / 2, the log-posterior up to a term equal for all rows (Hastie
    et al., The Elements of Statistical Learning, eq. 4.10, equal priors).

    Args:
        dim: d.
        shrinkage: "oas" (Chen et al. 2010, eq. 23) or the share alpha of tr(Sigma)/d I mixed into Sigma.

    >>> import torch
    >>> gaussians = ClassGaussians(2, shrinkage=0.1)
    >>> gaussians.grow(2)
    >>> gaussians.update(torch.tensor([[1.0, 0.0], [3.0, 0.0], [-2.0, 1.0]]), torch.tensor([0, 0, 1]))
    >>> gaussians.scores(torch.tensor([[2.0, 0.0], [-3.0, 0.0]])).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, dim: int, shrinkage: float | str = "oas") -> None:
        """No rows yet."""
        self.dim, self.shrinkage = dim, shrinkage
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.sums = torch.zeros(0, dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)  # sum of x x^T; its lower triangle is what counts
        self._changed()

    def __len__(self) -> int:
        """Number of rows R."""
        return len(self.counts)

    def grow(self, rows: int) -> None:
        """Add empty rows."""
        self.counts = torch.cat([self.counts, self.counts.new_zeros(rows)])
        self.sums = torch.cat([self.sums, self.sums.new_zeros(rows, self.dim)])
        self._changed()

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, d) that belong to rows (b,)."""
        x, rows = features.detach().cpu().double(), rows.cpu()
        self.counts.index_add_(0, rows, torch.ones(len(x), dtype=torch.float64))
        self.sums.index_add_(0, rows, x)
        self.outer.addmm_(x.T, x)
        self._changed()

    def _changed(self) -> None:
        """What follows from the sums is to be computed anew."""
        self._solved: tuple[Tensor, Tensor, Tensor, float] | None = None  # weight, bias, Cholesky factor, alpha
        self._precision: Tensor | None = None
        self._projected: tuple[Tensor, Tensor] | None = None
        self._merged: ClassGaussians | None = None
        self._near: dict[str, tuple[Tensor, Tensor]] = {}

    def merged(self, owner: Tensor) -> ClassGaussians:
        """Gaussians of groups of rows, row r in group owner[r]: what they would be, had rows been groups all along.

        The covariance that all share is then that within groups. The same for as long as no image comes.
        """
        if self._merged is None:
            groups, owner = ClassGaussians(self.dim, self.shrinkage), owner.cpu()
            groups.grow(int(owner.max()) + 1)
            groups.counts.index_add_(0, owner, self.counts)
            groups.sums.index_add_(0, owner, self.sums)
            groups.outer = self.outer  # one tensor: a sum over images does not depend on their rows
            self._merged = groups
        return self._merged

    @property
    def means(self) -> Tensor:
        """mu (R, d), float64."""
        return self.sums / self.counts.clamp_min(1).unsqueeze(1)

    def scatter(self) -> Tensor:
        """Pooled within-row scatter (d, d): sum over images of (x - mu)(x - mu)^T."""
        # A product is symmetric but for rounding, and only one triangle is saved: both are made of it.
        outer = self.outer.tril()
        outer += self.outer.tril(-1).T
        return outer.addmm_(self.sums.T * self.counts.clamp_min(1).reciprocal(), self.sums, alpha=-1)

    def spread(self) -> float:
        """Trace of the pooled covariance: mean squared distance of images from the mean of their row."""
        squares = self.outer.diagonal() - (self.sums.square() / self.counts.clamp_min(1).unsqueeze(1)).sum(0)
        return float(squares.sum() / (self.counts.sum() - int((self.counts > 0).sum())).clamp_min(1))

    def _unshrunk(self) -> Tensor:
        """The pooled covariance as it was measured."""
        return self.scatter() / (self.counts.sum() - int((self.counts > 0).sum())).clamp_min(1)

    def _alpha(self, sigma: Tensor) -> float:
        """Share of tr(Sigma)/d I that is mixed into Sigma."""
        if self.shrinkage != "oas":
            return float(self.shrinkage)
        d = self.dim
        freedom = (self.counts.sum() - int((self.counts > 0).sum())).clamp_min(1)
        square, trace = sigma.square().sum(), sigma.trace()
        top = (1 - 2 / d) * square + trace**2
        bottom = (freedom + 1 - 2 / d) * (square - trace**2 / d)
        return float((top / bottom.clamp_min(1e-30)).clamp(1e-4, 1))

    def _regularised(self) -> tuple[Tensor, float]:
        """Sigma (d, d) and alpha; together, for in thousands of dimensions every look at Sigma takes its time."""
        sigma, d = self._unshrunk(), self.dim
        alpha, spread = self._alpha(sigma), sigma.trace() / d
        scale = self.means.square().mean().clamp_min(1e-6)
        if spread <= 1e-9 * scale:  # one image per row, or copies of one: what is left is rounding, not a spread
            return torch.eye(d, dtype=torch.float64) * scale, alpha
        sigma *= 1 - alpha
        sigma.diagonal().add_(alpha * spread)
        return sigma, alpha

    def covariance(self) -> Tensor:
        """Sigma (d, d), regularised."""
        return self._regularised()[0]

    def _solve(self) -> tuple[Tensor, Tensor, Tensor, float]:
        if self._solved is None:
            sigma, alpha = self._regularised()
            factor = torch.linalg.cholesky(sigma)
            weight = torch.cholesky_solve(self.means.T, factor).T
            bias = -0.5 * (weight * self.means).sum(1)
            bias[self.counts == 0] = -torch.inf
            self._solved = (weight.float(), bias.float(), factor, alpha)
        return self._solved

    def projected(self, P: Tensor) -> Tensor:
        """L (k, k), float64, with P^T Sigma P = L L^T, P (d, k); the same for as long as no image comes."""
        if self._projected is None or self._projected[0] is not P:
            half = self._solve()[2].T @ P.double()  # Sigma = F F^T is factorised for the scores anyway
            self._projected = P, torch.linalg.cholesky(half.T @ half)
        return self._projected[1]

    def linear(self) -> tuple[Tensor, Tensor]:
        """The scores as a linear map: weight (R, d), bias (R,)."""
        weight, bias, *_ = self._solve()
        return weight, bias

    def scores(self, features: Tensor) -> Tensor:
        """(b, d) -> (b, R)."""
        weight, bias = self._moved("linear", features.device, self.linear)
        # Differences of large numbers: bfloat16 would ruin them.
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ weight.T + bias

    def _moved(
        self, what: str, device: torch.device, made: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Two tensors on a device, made and moved once and not for every batch."""
        held = self._near.get(what)
        if held is None or held[0].device != device:
            first, second = made()
            held = self._near[what] = first.to(device), second.to(device)
        return held

    def precision(self) -> Tensor:
        """Sigma^-1 (d, d), float32; apart from `linear`, which does without this larger piece of work."""
        if self._precision is None:
            self._precision = torch.cholesky_inverse(self._solve()[2]).float()
        return self._precision

    def distances(self, features: Tensor, rows: Tensor) -> Tensor:
        """Mahalanobis distance of features (b, d) to the means of rows (b,), divided by sqrt(d).

        About 1 for their own images.
        """
        place = features.device
        precision, means = self._moved("distances", place, lambda: (self.precision(), self.means.float()))
        with torch.autocast(place.type, enabled=False):
            away = features.float() - means[rows.to(place)]
            return ((away @ precision) * away).sum(1).clamp_min(0).sqrt() / math.sqrt(self.dim)

    def held_out_distances(self, features: Tensor, rows: Tensor, copies: Tensor | float = 1.0) -> Tensor:
        """The distances that images of the sums would have, had each been left out of mean and covariance: (b,).

        With few images in many dimensions the images that made a covariance look far too close to their means. Leaving
        image x out of row r with n images changes its residual u to u n / (n - 1) and Sigma to Sigma - kappa u u^T,
        kappa = (1 - alpha) n / ((n - 1) nu), nu degrees of freedom; by the Sherman-Morrison formula the squared
        distance q becomes (n / (n - 1))^2 q / (1 - kappa q). A row of one image has no mean without it and keeps its
        distance. An image that earlier rows hold, too, is left out of all `copies` (b,): kappa is as many times that.
        """
        counts = self.counts[rows.cpu()]
        leverage = counts / (counts - 1).clamp_min(1)
        freedom = (self.counts.sum() - int((self.counts > 0).sum())).clamp_min(1)
        q = self.distances(features, rows).cpu().double().square() * self.dim
        left = (1 - (1 - self._solve()[3]) * leverage / freedom * copies * q).clamp_min(1e-3)
        return (leverage.square() * q / left / self.dim).sqrt().float().to(features.device)

    def carry(self, first: int, weight: Tensor, offset: Tensor) -> None:
        """Move rows 0 .. first-1 with a change of features x -> x W + o.

        Fitted where old and new features are both known.
        """
        old, n = self.means[:first], self.counts[:first].unsqueeze(1)
        within = self.scatter()
        self.sums = torch.cat([(old @ weight + offset) * n, self.sums[first:]])
        self.outer = within + (self.sums.T * self.counts.clamp_min(1).reciprocal()) @ self.sums
        self._changed()

    def state(self) -> dict[str, Tensor]:
        """Sums as tensors; of the symmetric one, a triangle."""
        i, j = torch.tril_indices(self.dim, self.dim)
        return {"counts": self.counts, "sums": self.sums, "outer": self.outer[i, j]}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.counts = saved_tensor(state, "counts", (None,), "gaussians.").clone()
        self.sums = saved_tensor(state, "sums", (len(self.counts), self.dim), "gaussians.").clone()
        i, j = torch.tril_indices(self.dim, self.dim)
        self.outer = self.outer.new_zeros(self.dim, self.dim)
        self.outer[i, j] = self.outer[j, i] = state["outer"]
        self._changed()
