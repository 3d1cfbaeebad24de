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
    the A_q of all tasks, and per task three small ones. All are float32, whatever the precision of the pass: products
    as small as these are no faster in bfloat16.
    """

    def __init__(self, A: Tensor, B: Tensor) -> None:
        """Arrange factors A (T, 2 L, r, d) and B (T, 2 L, d, r)."""
        (T, maps, r, d), blocks = A.shape, range(A.shape[1] // 2)
        self.source, self.tasks, self.rank, self.blocks = A, T, r, maps // 2
        self.exact = torch.autocast(A.device.type, enabled=False)  # to be entered around the products of a pass
        with self.exact:
            A_q, A_p = A[:, ::2], A[:, 1::2]  # (T, L, r, d)
            B_q, B_p = B[:, ::2].mT, B[:, 1::2].mT  # (T, L, r, d)
            self.ask = [A_q[:, b].reshape(T * r, d).T.contiguous() for b in blocks]  # (d, T r)
            # (T, b r, r): coordinates of all blocks before
            self.follow = [B_p[:, :b].reshape(T, b * r, d) @ A_q[:, b].mT for b in blocks]
            self.question = [B_q[:, b].contiguous() for b in blocks]  # (T, r, d)
            self.take = [A_p[:, b].mT.contiguous() for b in blocks]  # (T, d, r)
            self.write = B_p.reshape(T, maps // 2 * r, d)  # (T, L r, d)

    def serves(self, A: Tensor) -> bool:
        """Whether these are still the factors that a pass needs."""
        return self.source is A

    def begin(self, batch: int) -> Tensor:
        """Coordinates (T, b, L r) of a pass that has asked no block yet."""
        return self.write.new_empty(self.tasks, batch, self.blocks * self.rank)

    def asked(self, block: int, q: Tensor, h: Tensor, p: Tensor) -> Tensor:
        """Questions (T, b, d) to a block, from the class token's query and input (b, d), float32, and coordinates."""
        c = (h @ self.ask[block]).view(len(h), self.tasks, self.rank).transpose(0, 1)  # (T, b, r)
        if block:
            c = torch.baddbmm(c, p[:, :, : block * self.rank], self.follow[block])
        return torch.baddbmm(q.expand(self.tasks, -1, -1), c, self.question[block])

    def answered(self, block: int, answers: Tensor, p: Tensor) -> None:
        """Write to p the coordinates of answers (T, b, d), float32."""
        p[:, :, block * self.rank : (block + 1) * self.rank] = answers @ self.take[block]

    def deltas(self, p: Tensor) -> Tensor:
        """delta_t (T, b, d) of a pass that has asked every block."""
        return p @ self.write
