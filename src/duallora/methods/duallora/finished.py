"""The residuals of all finished tasks in one pass, each held as a few coordinates until the pass ends."""

from __future__ import annotations

import torch
from torch import Tensor


class Finished:
    """Factors of the finished tasks, arranged for one pass over them all.

    With p_l = A_p o_t the r coordinates of what task t took from block l, its residual before block l is the sum of
    B_p p_l' over the blocks l' before, so that its question there is

        q_cls + B_q c,   c = A_q (h + delta_t) = A_q h + sum_l' (A_q B_p,l') p_l'.

    The products A_q B_p (r, r) are taken once. On the way no residual is written out: per block one product of h with
    the A_q of all tasks, and per task three small ones.
    """

    def __init__(self, A: Tensor, B: Tensor, dtype: torch.dtype) -> None:
        """Arrange factors A (T, 2 L, r, d) and B (T, 2 L, d, r) in the precision that products of matrices have now."""
        (T, maps, r, d), blocks = A.shape, range(A.shape[1] // 2)
        self.source, self.dtype, self.tasks, self.rank = A, dtype, T, r

        def arranged(t: Tensor) -> Tensor:
            return t.to(dtype).contiguous()

        A_q, A_p = A[:, ::2], A[:, 1::2]  # (T, L, r, d)
        B_q, B_p = B[:, ::2].mT, B[:, 1::2].mT  # (T, L, r, d)
        self.ask = [arranged(A_q[:, b].reshape(T * r, d).T) for b in blocks]  # (d, T r)
        # (T, b r, r): coordinates of all blocks before
        self.follow = [arranged(B_p[:, :b].reshape(T, b * r, d) @ A_q[:, b].mT) for b in blocks]
        self.question = [arranged(B_q[:, b]) for b in blocks]  # (T, r, d)
        self.take = [arranged(A_p[:, b].mT) for b in blocks]  # (T, d, r)
        self.write = arranged(B_p.reshape(T, maps // 2 * r, d))  # (T, L r, d)

    def serves(self, A: Tensor, dtype: torch.dtype) -> bool:
        """Whether these are still the factors, and the precision, that a pass needs."""
        return self.source is A and self.dtype == dtype

    def asked(self, block: int, q: Tensor, h: Tensor, taken: list[Tensor]) -> Tensor:
        """Questions (T, b, d) to a block, from the class token's query and input (b, d) and what was taken so far."""
        c = (h.to(self.dtype) @ self.ask[block]).unflatten(1, (self.tasks, self.rank)).transpose(0, 1)  # (T, b, r)
        if taken:
            c = c + torch.cat(taken, 2) @ self.follow[block]
        return torch.baddbmm(q.to(self.dtype).expand(self.tasks, -1, -1), c, self.question[block])

    def taken(self, block: int, answers: Tensor) -> Tensor:
        """Coordinates p (T, b, r) of answers (T, b, d)."""
        return answers @ self.take[block]

    def deltas(self, taken: list[Tensor]) -> Tensor:
        """delta_t (T, b, d) of a pass that has asked every block."""
        return torch.cat(taken, 2) @ self.write
