"""The dynamic memory: what each task's bases say of an image, and what follows for gates, task identity and logits."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.lowrank.saved import saved_tensor


class Bases:
    """Mutually orthogonal bases Psi_1 ... Psi_T of one map's input.

    With each goes its mean relevance on its own images.
    """

    def __init__(self, dim: int) -> None:
        """No task yet."""
        self.Phi = torch.zeros(dim, 0)  # (d, K) = [Psi_1 ... Psi_T], float32
        self.sizes: list[int] = []
        self.usual = torch.zeros(0)  # (T,) mean of ||Psi_t^T xbar||^2 / ||xbar||^2 over task t's training images
        self._spread: Tensor | None = (
            None  # (K, T), sums the energies of each task's directions, over their usual share
        )

    def add(self, Psi: Tensor, usual: float) -> None:
        """Append a task's basis (d, k), k >= 0."""
        self.Phi = torch.cat([self.Phi, Psi.to(self.Phi)], 1)
        self.sizes.append(Psi.shape[1])
        self.usual = torch.cat([self.usual, self.usual.new_tensor([usual])])
        self._spread = None

    def task(self, t: int) -> Tensor:
        """Psi_t (d, k_t), t counted from 0."""
        return torch.split(self.Phi, self.sizes, 1)[t]

    def to(self, device: torch.device) -> None:
        """Move all tensors."""
        self.Phi, self.usual, self._spread = self.Phi.to(device), self.usual.to(device), None

    def relevance(self, xbar: Tensor) -> Tensor:
        """rho (b, T): share of ||xbar||^2 inside each task's basis over its usual share.

        1 is what the task's own images have. A task that added no direction has relevance 0. All tasks at once: one
        (b, d) x (d, K) product.
        """
        if self._spread is None:
            owner = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes, dtype=torch.int64))
            sums = torch.nn.functional.one_hot(owner, len(self.sizes)).to(self.Phi)
            self._spread = sums * torch.where(self.usual > 0, self.usual, torch.inf).reciprocal()
        with torch.autocast(xbar.device.type, enabled=False):
            x = xbar.float()
            return (x @ self.Phi).square() @ self._spread / x.square().sum(1, keepdim=True).clamp_min(1e-12)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the bases."""
        return {"Phi": self.Phi, "sizes": torch.tensor(self.sizes, dtype=torch.int64), "usual": self.usual}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.Phi = saved_tensor(state, "Phi", (len(self.Phi), None), "bases.").clone()
        self.sizes = saved_tensor(state, "sizes", (None,), "bases.").tolist()
        self.usual = saved_tensor(state, "usual", (len(self.sizes),), "bases.").clone()
        self._spread = None


def task_posterior(evidence: Tensor, temperature: float) -> Tensor:
    """pi = softmax(evidence / T): (b, T) -> (b, T)."""
    return torch.softmax(evidence / temperature, dim=1)


def confidence(pi: Tensor, kind: str) -> Tensor:
    """c (b,) in [0, 1] of a posterior (b, T): its maximum, its lead over the second, or 1 - entropy / log T.

    >>> confidence(torch.tensor([[0.75, 0.25]]), "margin")
    tensor([0.5000])
    """
    tasks = pi.shape[1]
    if tasks == 1:
        return torch.ones_like(pi[:, 0])
    if kind == "max":
        return pi.amax(1)
    if kind == "margin":
        top = pi.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]
    entropy: Tensor = torch.special.entr(pi).sum(1)
    return (1 - entropy / torch.log(torch.tensor(float(tasks)))).clamp(0, 1)


def calibrate(logits: Tensor, row_task: Tensor, pi: Tensor, c: Tensor, weight: float) -> Tensor:
    """o'_j = o_j + lambda c log pi_task(j); lambda = 0 returns the logits themselves.

    Args:
        logits: (b, R) of all rows.
        row_task: (R,) task of each row.
        pi: (b, T) task posterior.
        c: (b,) its confidence.
        weight: lambda.
    """
    if weight == 0:
        return logits
    return logits + weight * c.unsqueeze(1) * pi.clamp_min(1e-12).log()[:, row_task]


def gates_of(relevance: Tensor, kind: str, basis: str) -> Tensor:
    """Gates (b, T + 1) in [0, 1] of residuals 0 .. T from relevances (b, T) of the bases known so far.

    "basis": residual t lives in the basis that task t-1 added (`basis` "previous"), in all of them ("all": the most
    relevant counts), or in its own ("own"). "task": its own task's basis, whatever it lives in. Residual 0 does not
    exist; its gate is 1.
    """
    b = relevance.clamp(0, 1)
    one = b.new_ones(len(b), 1)
    if kind == "task" or basis == "own":
        return torch.cat([b, one], 1)
    if basis == "previous":
        return torch.cat([one, b], 1)
    return torch.cat([one, b.cummax(1).values], 1)
