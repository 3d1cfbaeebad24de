"""Ridge regression onto rows, summed in a stream of tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from duallora.lowrank.saved import saved_tensor

LAMBDAS = tuple(10.0**e for e in range(-8, 9))  # candidates, as in RanPAC's public code
EVERY = 5  # each fifth image is held out where lambda is chosen: 80:20 as in the same code
CHUNK = 4096  # images whose lifted features are float64 at once


class Ridge:
    """W = (G + lambda I)^-1 C with G = sum h h^T (M, M) and C = sum h y^T (M, R), y the one-hot rows.

    G and C only add up, so that the solution after many tasks is that of all their images at once. Sums are float64.
    """

    def __init__(self, size: int) -> None:
        """No rows yet; `size` is M."""
        self.G = torch.zeros(size, size, dtype=torch.float64)
        self.C = torch.zeros(size, 0, dtype=torch.float64)
        self.ridge = torch.ones((), dtype=torch.float64)  # lambda, as chosen on the newest task
        self._weight: Tensor | None = None

    def learn(self, h: Tensor, local: Tensor, rows: int) -> None:
        """Add a task.

        Args:
            h: (n, M) lifted features of its images; the task's own are dropped afterwards.
            local: (n,) row of each within the task.
            rows: how many rows the task has.
        """
        h, local = (value.to(wide(value.device)) for value in (h, local))
        y = F.one_hot(local, rows)
        held = held_out(local)
        if 0 < int(held.sum()) < len(h):
            self.ridge = torch.tensor(choose(h[~held], y[~held], h[held], y[held]), dtype=torch.float64)
        G, C = sums(h, y)
        self.G += G.cpu()
        self.C = torch.cat([self.C, C.cpu()], 1)
        self._weight = None

    def weight(self, device: torch.device) -> Tensor:
        """W^T (R, M), float32, solved on `device` when first asked for."""
        if self._weight is None:
            at = wide(device)
            self._weight = solve(self.G.to(at), self.C.to(at), float(self.ridge)).T.float()
        return self._weight.to(device)

    def state(self) -> dict[str, Tensor]:
        """Sums and lambda."""
        return {"G": self.G, "C": self.C, "lambda": self.ridge}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        shapes = {"G": self.G.shape, "C": (len(self.G), None), "lambda": ()}
        self.G, self.C, self.ridge = (saved_tensor(state, k, shape, "ridge.").clone() for k, shape in shapes.items())
        self._weight = None


def wide(device: torch.device) -> torch.device:
    """Where to compute in float64 for a device: on it, but on the CPU for Apple's MPS, which has no float64.

    >>> wide(torch.device("cuda", 1)), wide(torch.device("mps"))
    (device(type='cuda', index=1), device(type='cpu'))
    """
    return torch.device("cpu") if device.type == "mps" else device


def held_out(local: Tensor) -> Tensor:
    """(n,) mask of each EVERYth image, counted through row after row, in the order in which they came.

    >>> held_out(torch.tensor([0, 1, 0, 1, 0, 1])).tolist()
    [False, False, False, True, False, False]
    """
    mask = torch.zeros_like(local, dtype=torch.bool)
    mask[local.argsort(stable=True)[EVERY - 1 :: EVERY]] = True
    return mask


def sums(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """H^T H (M, M) and H^T Y (M, R), float64."""
    G = torch.zeros(h.shape[1], h.shape[1], dtype=torch.float64, device=h.device)
    C = torch.zeros(h.shape[1], y.shape[1], dtype=torch.float64, device=h.device)
    for part, targets in zip(h.split(CHUNK), y.split(CHUNK), strict=True):
        G.addmm_(part.double().T, part.double())
        C.addmm_(part.double().T, targets.double())
    return G, C


def choose(h: Tensor, y: Tensor, h_held: Tensor, y_held: Tensor) -> float:
    """The lambda of LAMBDAS whose solution on (h, y) has the least squared error on the held-out images.

    One decomposition serves all: with H^T H = V E V^T the solution is V (E + lambda I)^-1 V^T H^T Y; with fewer images
    than M, H H^T = V E V^T, which is smaller, gives the same predictions by H_held H^T V (E + lambda I)^-1 V^T Y.
    """
    few = len(h) < h.shape[1]
    gram, target = (h.double() @ h.double().T, y.double()) if few else sums(h, y)
    values, V = torch.linalg.eigh(gram)
    target = V.T @ target
    errors = torch.zeros(len(LAMBDAS), dtype=torch.float64, device=h.device)
    for part, expected in zip(h_held.split(CHUNK), y_held.split(CHUNK), strict=True):
        turned = (part.double() @ h.double().T @ V) if few else part.double() @ V
        for i, ridge in enumerate(LAMBDAS):
            guess = turned @ (target / (values.clamp_min(0) + ridge).unsqueeze(1))
            errors[i] += (guess - expected).square().sum()
    return LAMBDAS[int(errors.argmin())]


def solve(G: Tensor, C: Tensor, ridge: float) -> Tensor:
    """(G + lambda I)^-1 C, also where rounding has made G + lambda I indefinite."""
    factor, failed = torch.linalg.cholesky_ex(G + ridge * torch.eye(len(G), dtype=G.dtype, device=G.device))
    if failed:
        values, V = torch.linalg.eigh(G)
        solution: Tensor = V @ ((V.T @ C) / (values.clamp_min(0) + ridge).unsqueeze(1))
    else:
        solution = torch.cholesky_solve(C, factor)
    return solution
