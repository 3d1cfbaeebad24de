"""How each class spreads beside what all classes share: what turns the linear discriminant into a quadratic one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from duallora.lowrank.saved import saved_tensor
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.moments import RowMoments

WIDTH = 768  # k: features are projected to as many directions, so that a class's covariance stays of bounded size
DIRECTIONS = 64  # q: kept per row; more told classes apart no better
HELD = 2048  # of the first features: the projection is chosen by about so many, held until it is
ROWS_AT_ONCE = 128  # rows whose quadratic forms are solved for together


class ClassSpreads:
    """What a class's own covariance S_r is beside the shared one, Sigma.

    Both in k directions, an orthonormal P (D, k): those in which the first features vary most within their classes. It
    is chosen once, in the first task; from few images, much of it is random. Images come class by class, so that where
    classes are large it is chosen by the first few of them: in a mixed order it served no better (CIFAR-100, 500 images
    a class, four tasks).

    With P^T Sigma P = L L^T as it is when the row's task ends, l_1 >= ... >= l_k the eigenvalues and u_i the
    eigenvectors of L^-1 S_r L^-T, the q first directions count one by one and the others by their mean rho_r, as in
    probabilistic principal component analysis (Tipping & Bishop 1999) where Sigma is the identity:

        S_r ~ rho_r Sigma + C_r^T C_r,  rows of C_r (q, k): sqrt(l_i - rho_r) L u_i.

    A class of n images fixes even this badly, so its covariance counts as Sigma_r = (1 - w_r) Sigma + w_r S_r with
    w_r = (n - 1) / (prior k + n - 1), the posterior mean under an inverse-Wishart prior worth `prior` k images
    (regularised discriminant analysis, Friedman 1989, with a weight that follows the number of images). Sigma there is
    the present one: old rows follow it. The score of row r changes by

        (x - mu_r)^T (Sigma^-1 - Sigma_r^-1) (x - mu_r) / 2 - log(|Sigma_r| / |Sigma|) / 2.
    """

    def __init__(self, features: int, prior: float = 4.0) -> None:
        """No rows yet, over `features` = D; Sigma weighs as much as `prior` k images of a class."""
        self.features, self.prior = features, prior
        self.basis = torch.eye(features) if features <= WIDTH else None  # P, None until it is chosen
        k = min(features, WIDTH)
        self.factors = torch.zeros(0, min(DIRECTIONS, k - 1), k)  # C, (R, q, k) float32
        self.rest = torch.zeros(0)  # rho, (R,)
        self._held: list[tuple[Tensor, Tensor]] = []
        self.grow(0)
        self._solved: tuple[Tensor, ...] | None = None
        self._large: tuple[Tensor, Tensor] | None = None

    @property
    def width(self) -> int:
        """The number k of directions."""
        return self.factors.shape[2]

    def grow(self, rows: int) -> None:
        """Make room for the rows of a new task."""
        self._moments = RowMoments(rows, self.width)  # of z = P^T x, for the rows not yet sealed

    def update(self, features: Tensor, rows: Tensor) -> None:
        """Add features (b, D) that belong to the newest task's rows (b,), counted from 0."""
        x, rows = features.detach().to("cpu", torch.float32), rows.cpu()
        if self.basis is not None:
            self._moments.add(x @ self.basis, rows)
            return
        self._held.append((x, rows))
        if sum(len(rows) for _, rows in self._held) >= HELD:
            self._choose()

    def _choose(self) -> None:
        """P from the features held so far, which then count and are let go."""
        x, rows = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        self.basis, self._held = widest(x, rows, self.width), []
        self._moments.add(x @ self.basis, rows)

    def seal(self, gaussians: ClassGaussians) -> None:
        """End of a task: from the sums of its rows, the last of `gaussians`, to their factors."""
        if self._held:
            self._choose()
        _, L = self._shared(gaussians)
        images = self._moments.vectors()
        if images is not None:
            self._append(_of_images(own, L, self.factors.shape[1]) for own in images)
        else:
            counts = gaussians.counts[len(gaussians) - len(self._moments) :]
            self.extend((_covariance(n, *sums) for n, sums in zip(counts, self._moments, strict=True)), gaussians)
        self.grow(0)

    def together(self, gaussians: ClassGaussians) -> Tensor:
        """Covariance (k, k), float64, of all images of the task that ends, whatever their rows; before `seal`."""
        if self._held:
            self._choose()
        return _covariance(gaussians.counts[len(gaussians) - len(self._moments) :].sum(), *self._moments.whole())

    def whole(self, gaussians: ClassGaussians, owner: Tensor) -> Iterator[Tensor]:
        """The same for each group of finished rows, row r in group owner[r], from what is kept of the rows."""
        P, L = self._shared(gaussians)
        shared = L @ L.T
        for group in owner.unique().tolist():
            rows = owner == group
            n, mu = gaussians.counts[rows], gaussians.means[rows] @ P
            C, rho = self.factors[rows].double(), self.rest[rows].double()
            within = (n - 1).clamp_min(0)
            away = mu - (n @ mu) / n.sum().clamp_min(1)
            inside = (within @ rho) * shared + torch.einsum("r,rqi,rqj->ij", within, C, C)
            yield (inside + (away.T * n) @ away) / (n.sum() - 1).clamp_min(1)

    def _shared(self, gaussians: ClassGaussians) -> tuple[Tensor, Tensor]:
        """P (D, k), float64, and L (k, k) with P^T Sigma P = L L^T."""
        assert self.basis is not None, "a task without any image"
        return self.basis.double(), gaussians.projected(self.basis)

    def extend(self, covariances: Iterable[Tensor], gaussians: ClassGaussians) -> None:
        """New rows by their own covariances S (k, k), float64."""
        _, L = self._shared(gaussians)
        self._append(_of_covariance(S, L, self.factors.shape[1]) for S in covariances)

    def _append(self, rows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """New rows by their C (q, k) and rho, one made after another: on the way each takes k^2 numbers."""
        factors, rest = [self.factors], [self.rest]
        for C, rho in rows:
            factors.append(C.float().unsqueeze(0))
            rest.append(rho.float().reshape(1))
        self.factors, self.rest = torch.cat(factors), torch.cat(rest)
        self._solved = self._large = None

    def _solve(self, gaussians: ClassGaussians) -> tuple[Tensor, ...]:
        """P L^-T (D, k), o (D,), A (R, q, k), mu as z (R, k), A mu (R, q), s (R,), level (R,); float32.

        In the coordinates z = L^-1 P^T (x - o), o the mean of all rows, Sigma is the identity and Sigma_r =
        s (I + Z Z^T) with s = (1 - w) + w rho and Z = L^-1 C^T sqrt(w / s); by Woodbury's formula I - Sigma_r^-1 =
        (1 - 1 / s) I + A^T A. The level is log(|Sigma_r| / |Sigma|) / 2.
        """
        if self._solved is None:
            P, L = self._shared(gaussians)
            into = torch.linalg.solve_triangular(L, P.T, upper=False).T  # (D, k)
            origin = gaussians.means.mean(0)
            mu = (gaussians.means - origin) @ into
            freedom = (gaussians.counts - 1).clamp_min(0)
            w = freedom / (self.prior * self.width + freedom)
            s = 1 - w + w * self.rest.double()
            rows = []
            for C, share, scale, at in zip(*(t.split(ROWS_AT_ONCE) for t in (self.factors, w / s, s, mu)), strict=True):
                beyond = share.sqrt()[:, None, None] * C.double()
                Z = torch.linalg.solve_triangular(L, beyond.mT, upper=False)  # (r, k, q)
                M = torch.linalg.cholesky(torch.eye(Z.shape[2], dtype=Z.dtype) + Z.mT @ Z)  # (r, q, q)
                A = torch.linalg.solve_triangular(M, Z.mT, upper=False) / scale.sqrt()[:, None, None]
                level = M.diagonal(dim1=1, dim2=2).log().sum(1) + self.width / 2 * scale.log()
                rows.append([t.float() for t in (A, (A @ at.unsqueeze(2)).squeeze(2), level)])
            A, offset, level = (torch.cat(part) for part in zip(*rows, strict=True))
            self._solved = (into.float(), origin.float(), A, mu.float(), offset, s.float(), level)
        return self._solved

    def _maps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """P L^-T (D, k) and A (R q, k) in the precision that products of matrices have now."""
        assert self._solved is not None
        lowered = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if lowered else torch.float32
        if self._large is None or self._large[0].dtype != dtype or self._large[0].device != device:
            self._large = self._solved[0].to(device, dtype), self._solved[2].flatten(0, 1).to(device, dtype)
        return self._large

    def correction(self, features: Tensor, gaussians: ClassGaussians) -> Tensor:
        """What the quadratic term adds to the scores: (b, D) -> (b, R).

        Under autocast the two large maps run in its precision: coordinates z are of size 1 around the origin, and what
        rounding leaves in sums of their squares is far less than what images of one class differ by.
        """
        if self.basis is None:  # no image yet
            return features.new_zeros(len(features), len(gaussians))
        self._solved = tuple(t.to(features.device) for t in self._solve(gaussians))  # moved once, not for every batch
        _, origin, _, mu, offset, s, level = self._solved
        into, along = self._maps(features.device)
        with torch.autocast(features.device.type, enabled=False):
            z = (features.float() - origin).to(into.dtype) @ into
            away = (z @ along.T).float().unflatten(1, offset.shape) - offset  # (b, R, q)
            z = z.float()
            distance = z.square().sum(1, keepdim=True) - 2 * z @ mu.T + mu.square().sum(1)  # (b, R)
            change: Tensor = 0.5 * ((1 - 1 / s) * distance + away.square().sum(2)) - level
            return change

    def state(self) -> dict[str, Tensor]:
        """Factors, what the other directions come to, and, where features are projected, how."""
        state = {"factors": self.factors, "rest": self.rest}
        if self.basis is not None and (self.features > WIDTH or self.width < self.features):
            state["basis"] = self.basis
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`.

        Raises:
            DualLoRAError: a tensor is missing or has another shape.
        """
        self.factors = saved_tensor(state, "factors", (None, None, None), "spreads.").clone()
        self.rest = saved_tensor(state, "rest", (len(self.factors),), "spreads.").clone()
        if "basis" in state or (len(self.factors) and self.width != self.features):
            self.basis = saved_tensor(state, "basis", (self.features, self.width), "spreads.").clone()
        self._held, self._solved, self._large = [], None, None
        self.grow(0)


def _covariance(n: Tensor, total: Tensor, outer: Tensor) -> Tensor:
    """Of n images, by the sums of z and of z z^T."""
    return (outer - torch.outer(total, total) / n.clamp_min(1)) / (n - 1).clamp_min(1)


def _of_covariance(S: Tensor, L: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """C (q, k) and rho of a covariance S (k, k) beside the shared L L^T, all float64."""
    white = torch.linalg.solve_triangular(L, torch.linalg.solve_triangular(L, S, upper=False).T, upper=False)
    values, vectors = torch.linalg.eigh(white)  # ascending
    least = len(values) - q
    rho = values[:least].mean().clamp_min(0)
    return (L @ vectors[:, least:] * (values[least:] - rho).clamp_min(0).sqrt()).T, rho


def _of_images(z: Tensor, L: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """The same of the images z (n, k) themselves: n <= k of them span n - 1 directions, and no more are looked at.

    With Y = L^-1 Z, Z (k, n) the centred images, eigenvectors of Y Y^T are u = Y v / |Y v|, v those of Y^T Y (n, n),
    and L u is a sum of images: no k x k matrix is made. A thirtieth of the time for a hundred images, k = 768.
    """
    (n, k), degrees = z.shape, max(len(z) - 1, 1)
    z = z.double()
    away = z - z.sum(0) / max(n, 1)
    if n > k:
        return _of_covariance(away.T @ away / degrees, L, q)
    Y = torch.linalg.solve_triangular(L, away.T, upper=False)  # (k, n), columns are images
    values, V = torch.linalg.eigh(Y.T @ Y / degrees)
    least = max(n - q, 0)
    values, V = values[least:].clamp_min(0), V[:, least:]
    rho = (Y.square().sum() / degrees - values.sum()).clamp_min(0) / (k - q)
    share = ((values - rho).clamp_min(0) / values.clamp_min(torch.finfo(values.dtype).tiny) / degrees).sqrt()
    C = z.new_zeros(q, k)
    C[q - len(values) :] = (away.T @ V * share).T
    return C, rho


def widest(x: Tensor, rows: Tensor, k: int) -> Tensor:
    """An orthonormal P (D, k) for features (n, D) of rows (n,): the directions in which they vary most within rows.

    By two steps of subspace iteration from a random start (Halko, Martinsson & Tropp 2011); what does not vary at all
    is filled up at random.
    """
    x, draw = x.double(), torch.Generator().manual_seed(0)
    away = torch.cat([x[rows == row] - x[rows == row].mean(0) for row in rows.unique().tolist()])
    floor = 1e-6 * float(away.square().sum(1).mean()) + 1e-12
    P = torch.linalg.qr(torch.randn(x.shape[1], k, dtype=x.dtype, generator=draw))[0]
    for _ in range(2):
        P = torch.linalg.qr(away.T @ (away @ P) + floor * P)[0]
    found: Tensor = P.float()
    return found
