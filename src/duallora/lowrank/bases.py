"""Mutually orthogonal bases: which directions of a space the tasks so far use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# An eigenvalue below this share of the trace is rounding, not a direction that features use.
_NOISE = 1e-9


@dataclass(frozen=True)
class Extension:
    """What a task adds to a block's basis.

    Attributes:
        basis: Psi (d, k), float64, orthonormal and orthogonal to the earlier bases; k may be 0.
        captured: share of tr(C) inside all bases together, in [0, 1].
        full: True when `reserve` stopped the extension before the wanted energy was reached.
    """

    basis: Tensor
    captured: float
    full: bool


def project_out(x: Tensor, basis: Tensor) -> Tensor:
    """x (I - Phi Phi^T): the rows of x (..., d) without their part in span(Phi), Phi (d, k) orthonormal.

    >>> import torch
    >>> project_out(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
    tensor([[0., 4.]])
    """
    return x - (x @ basis) @ basis.T


def extend_basis(moment: Tensor, basis: Tensor, energy: float, reserve: int = 0) -> Extension:
    """The fewest new directions after which all bases together hold the share `energy` of a second moment.

    With C' = (I - Phi Phi^T) C (I - Phi Phi^T), Psi is the fewest leading eigenvectors of C' such that
    tr([Phi Psi]^T C [Phi Psi]) >= energy tr(C). At least `reserve` directions of the space stay free for later tasks.

    Args:
        moment: C (d, d), symmetric, positive semi-definite.
        basis: Phi (d, k), orthonormal columns; k = 0 for the first task.
        energy: share of tr(C) to hold, in (0, 1].
        reserve: directions that must stay outside all bases.

    >>> import torch
    >>> extend_basis(torch.diag(torch.tensor([8.0, 1.5, 0.5])), torch.zeros(3, 0), energy=0.9).basis.shape
    torch.Size([3, 2])
    """
    C, Phi = moment.double(), basis.to(moment.device).double()
    d, k = Phi.shape
    total = C.trace()
    room = max(d - reserve - k, 0)
    if total <= 0:
        return Extension(Phi.new_zeros(d, 0), 1.0, False)
    held = ((Phi.T @ C) * Phi.T).sum() / total
    rest = project_out(project_out(C, Phi).T, Phi)
    values, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    values, vectors = values.flip(0).clamp_min(0) / total, vectors.flip(1)
    reached = held + values.cumsum(0)
    usable = int((values > _NOISE).sum())
    wanted = 0 if held >= energy else min(int((reached < energy - 1e-12).sum()) + 1, usable)
    taken = min(wanted, room)
    Psi = vectors[:, :taken]
    if taken:
        # eigh is orthogonal to Phi only up to the conditioning of C': project once more, then re-orthonormalise.
        Psi = torch.linalg.qr(project_out(Psi.T, Phi).T).Q
        Psi = torch.linalg.qr(project_out(Psi.T, Phi).T).Q
    captured = held + ((Psi.T @ C) * Psi.T).sum() / total
    return Extension(Psi, float(captured.clamp(0, 1)), taken < wanted)


def capacity(basis: Tensor) -> float:
    """Share of the d directions that are in use: k / d of a basis (d, k)."""
    return basis.shape[1] / basis.shape[0]
