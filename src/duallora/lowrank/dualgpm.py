"""The space of earlier tasks' inputs, kept as itself or as its complement, whichever is smaller (DualGPM)."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.lowrank.bases import project_out

# A singular value below this share of the moment's norm is rounding: moments are summed from float32 products.
_NOISE = 1e-6


class DualGPM:
    """Directions of a d-dimensional input space that earlier tasks use (InfLoRA, Liang & Li, arXiv 2404.00228).

    `basis` F (d, k) is orthonormal. In mode "remove" it spans what is used, in mode "retain" what is still free; a
    basis of more than d / 2 columns is replaced by that of its complement, so that k <= d / 2 always.

    How much of a second moment C = E[x x^T] a subspace holds is measured as in the authors' code: by the squared
    singular values of C, ||C||_F^2 in all, which are the fourth powers of those of the data.

    >>> space = DualGPM(4)
    >>> space.update(torch.diag(torch.tensor([9.0, 2.0, 1.0, 0.0])), 0.99)
    >>> space.mode, space.used
    ('remove', 2)
    """

    def __init__(self, dim: int) -> None:
        """Nothing is used yet; `dim` is d."""
        self.basis = torch.zeros(dim, 0)  # F (d, k), float32 as it is stored
        self.retain = False

    @property
    def mode(self) -> str:
        """What the basis stands for."""
        return "retain" if self.retain else "remove"

    @property
    def used(self) -> int:
        """Number of directions that earlier tasks use."""
        d, k = self.basis.shape
        return d - k if self.retain else k

    def free_part(self, x: Tensor) -> Tensor:
        """Columns of x (d, n) without what lies in used directions: x - F F^T x, or F F^T x in mode "retain"."""
        F = self.basis.double()
        return F @ (F.T @ x) if self.retain else project_out(x.T, F).T

    def _decomposed(self, C: Tensor) -> tuple[Tensor, Tensor]:
        """Left singular vectors (d, d) of the free part of C and the squares of its singular values, falling."""
        # R = P C has the left singular vectors of R R^T, whose symmetric decomposition is several times faster.
        R = self.free_part(C)
        squares, vectors = torch.linalg.eigh(R @ R.T)
        return vectors.flip(1), squares.flip(0).clamp_min(0)

    def design(self, moment: Tensor, rank: int) -> Tensor:
        """The leading left singular vectors of the free part of C, as rows: (rank, d), float64.

        Rows beyond the rank of what is free are zero: there is nothing of the task to read there, and a direction
        taken at random could be one of an earlier task.

        Args:
            moment: C (d, d), the uncentred second moment of the new task's inputs.
            rank: rows wanted.
        """
        C = moment.double()
        U, squares = self._decomposed(C)
        down = self.free_part(U[:, :rank]).T.contiguous()
        return down * (squares[:rank] > _NOISE**2 * C.square().sum()).unsqueeze(1)

    def update(self, moment: Tensor, threshold: float) -> None:
        """Count as used the fewest directions with which at least a share `threshold` of C is held.

        The first task takes as many as stay below the threshold, yet one at least: so the authors' code does it.

        Args:
            moment: C (d, d) of the finished task's inputs.
            threshold: eps_t in (0, 1].
        """
        C = moment.double()
        total = C.square().sum()
        if total <= 0:
            return
        U, squares = self._decomposed(C)
        share = squares / total
        outside = share.sum() - share.cumsum(0) + share  # what is free before each direction is taken
        if not self.used:
            taken = max(int((share.cumsum(0) < threshold).sum()), 1)
        elif self.retain:
            taken = int((outside >= 1 - threshold).sum())
        else:
            taken = int((1 - outside < threshold).sum())
        taken = min(taken, int((share > _NOISE**2).sum()))
        if taken:
            self._take(U[:, :taken])

    def _take(self, U: Tensor) -> None:
        """Count the free directions U (d, n) as used."""
        F, (d, k), n = self.basis.double(), self.basis.shape, U.shape[1]
        if self.retain:
            F = torch.linalg.svd(F - U @ (U.T @ F), full_matrices=False).U[:, : max(k - n, 0)]
        else:
            # Orthogonal to F only up to rounding: project once more, then re-orthonormalise.
            F = torch.cat([F, torch.linalg.qr(self.free_part(U)).Q], 1)
            if 2 * F.shape[1] > d:
                F, self.retain = torch.linalg.qr(F, mode="complete").Q[:, F.shape[1] :], True
        self.basis = F.float().contiguous()  # a loaded one must not differ even in layout

    def state(self) -> dict[str, Tensor]:
        """Basis and mode."""
        return {"basis": self.basis, "retain": torch.tensor(self.retain)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.basis, self.retain = state["basis"].clone(), bool(state["retain"])
