"""The residual adapter of the class token: each task asks the blocks its own questions, all tasks in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank import block_indices
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import BackboneLike, State, part, prefixed
from duallora.methods.duallora.finished import Finished
from duallora.methods.heads import Heads


class ClassResiduals(nn.Module):
    """For each task t a low-rank residual delta_t of the class token, and a head that reads f + delta_t.

    In each chosen block l, whose map gives q, K and V of all tokens, with h the class token's input of that map:

        o_t = softmax((q_cls + B_q A_q (h + delta_t)) K^T / sqrt(c)) V,        delta_t <- delta_t + B_p A_p o_t

    per head, A (r, d) and B (d, r) of task t and block l, delta_t = 0 before the first of them. The residual reads what
    the class token could have read, and writes to a copy of it that nothing else reads. So it costs one query per task
    and block, no further pass; no task can change what another one's residual sees but by changing the network itself;
    and no gradient flows from it into the network.

    A backbone without class token has the mean token, and the mean of its queries, in that place.
    """

    A: Tensor
    B: Tensor

    def __init__(self, backbone: BackboneLike, rank: int, blocks: Sequence[int] | None = None) -> None:
        """Listen to the attention of some blocks, by default all; what wraps their maps must be in place already."""
        super().__init__()
        self.rank, self.class_token = rank, backbone.has_class_token
        asked = block_indices(backbone.depth, blocks, "class_blocks")
        maps, d = 2 * len(asked), backbone.dim
        self.register_buffer("A", torch.zeros(0, maps, rank, d), persistent=False)  # finished tasks, two maps a block
        self.register_buffer("B", torch.zeros(0, maps, d, rank), persistent=False)
        self.A_new: nn.Parameter | None = None
        self.B_new: nn.Parameter | None = None
        self.heads = Heads(d)
        # In a tuple: they are the backbone's modules, not ours.
        self.attention = tuple(backbone.attention[b] for b in asked)
        self.listening = False
        self._delta: Tensor | None = None  # (1, b, d), float32, of the newest task in the pass that is under way
        self._coordinates: Tensor | None = None  # of all finished tasks in the pass that is under way, see `Finished`
        self._finished: Finished | None = None
        for i, attention in enumerate(self.attention):
            attention.qkv.register_forward_hook(partial(self._step, i))  # type: ignore[union-attr]

    @property
    def learning(self) -> bool:
        """Whether a residual is in training."""
        return self.A_new is not None

    def listen(self, wanted: bool) -> None:
        """Before a pass through the network: whether `features` will be asked for."""
        self.listening, self._delta, self._coordinates = wanted, None, None

    def _step(self, block: int, _map: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Question and answer of one block, as soon as its map has run: kept until the end, K and V would be many."""
        if not self.listening:
            return
        x, d = inputs[0], inputs[0].shape[-1]
        if torch.is_grad_enabled():  # none is to flow from here into the network
            x, output = x.detach(), output.detach()
        k, v = output[..., d : 2 * d], output[..., 2 * d :]
        h, q = (x[:, 0], output[:, 0, :d]) if self.class_token else (x.mean(1), output[..., :d].mean(1))
        if block == 0:
            self._delta, self._coordinates = None, None
        if self.A_new is not None and self.B_new is not None:
            self._delta = self._newest(block, h, q, k, v, self.A_new, self.B_new)
            return
        finished = self._finished
        if finished is None or not finished.serves(self.A):
            finished = self._finished = Finished(self.A, self.B)
        if self._coordinates is None:
            self._coordinates = finished.begin(len(h))
        with finished.exact:
            asked = finished.asked(block, q.float(), h.float(), self._coordinates).to(k.dtype)
        answers = _read(asked, k, v, self.attention[block])  # in the precision of the pass, norms of q and k as well
        with finished.exact:
            finished.answered(block, answers.float(), self._coordinates)

    def _newest(self, block: int, h: Tensor, q: Tensor, k: Tensor, v: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """In training: delta (1, b, d) of the newest task after a block."""
        delta = h.new_zeros(1, *h.shape, dtype=torch.float32) if self._delta is None else self._delta
        asked = q + _low_rank((h + delta).to(q.dtype), A[:, 2 * block], B[:, 2 * block])
        answer = _read(asked, k, v, self.attention[block])
        return delta + _low_rank(answer, A[:, 2 * block + 1], B[:, 2 * block + 1])

    def begin(self, classes: int) -> None:
        """A new residual, zero at first, and a new head, of small random weights."""
        _, maps, rank, d = self.A.shape
        self.A_new = nn.Parameter(torch.empty(1, maps, rank, d, device=self.A.device))
        self.B_new = nn.Parameter(torch.zeros(1, maps, d, rank, device=self.A.device))
        nn.init.kaiming_uniform_(self.A_new.view(-1, d), a=5**0.5)
        self.heads.grow(classes)
        self.heads.to(self.A.device)

    def end(self) -> None:
        """The task's residual joins the finished ones.

        To its head's loss a number that all logits have in common made no difference; beside other tasks' heads it
        would, so it is taken out.
        """
        if self.A_new is not None and self.B_new is not None:
            self.heads.centre()
            self.A, self.B = torch.cat([self.A, self.A_new.detach()]), torch.cat([self.B, self.B_new.detach()])
        self.A_new = self.B_new = None
        for parameter in self.heads.parameters():
            parameter.requires_grad_(False)

    def features(self, final: Tensor) -> Tensor:
        """f + delta_t (b, T, d), float32, of the pass that has just ended; in training of the newest task, T = 1.

        Args:
            final: (b, D) features of the pass, f the first d.

        Raises:
            RuntimeError: no pass was listened to.
        """
        delta, p, self._delta, self._coordinates, self.listening = self._delta, self._coordinates, None, None, False
        if p is not None and self._finished:
            with self._finished.exact:
                delta = self._finished.deltas(p)
        if delta is None:
            raise RuntimeError("nothing was heard: call listen(True) before the pass through the network")
        return final[:, None, : self.A.shape[-1]].detach().float() + delta.transpose(0, 1)

    def logits(self, features: Tensor) -> Tensor:
        """Every task's head on its own feature: (b, T, d) -> (b, R); in training the newest head on the newest one."""
        with torch.autocast(features.device.type, enabled=False):
            if self.A_new is not None:
                return self.heads.newest(features[:, 0])
            heads = zip(features.unbind(1), self.heads.weights, self.heads.biases, strict=True)
            return torch.cat([F.linear(f, weight, bias) for f, weight, bias in heads], 1)

    def state(self) -> State:
        """Factors and heads."""
        return {"A": self.A, "B": self.B} | prefixed("heads", self.heads.state())

    def load_state(self, state: State) -> None:
        """Restore `state()`.

        Raises:
            DualLoRAError: a tensor is missing or has another shape.
        """
        A = saved_tensor(state, "A", (None, *self.A.shape[1:]), "residuals.")
        B = saved_tensor(state, "B", (len(A), *self.B.shape[1:]), "residuals.")
        self.A, self.B = A.to(self.A.device, copy=True), B.to(self.B.device, copy=True)
        self.heads.load_state(part("heads", state))


def _low_rank(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """B_t A_t x_t of every task: x (T, b, d), A (T, r, d), B (T, d, r) -> (T, b, d)."""
    return (x @ A.mT.to(x.dtype)) @ B.mT.to(x.dtype)


def _read(q: Tensor, k: Tensor, v: Tensor, attention: nn.Module) -> Tensor:
    """Multi-head attention of queries (T, b, d) over keys and values (b, N, d): (T, b, d)."""
    heads, scale = cast(int, attention.num_heads), cast(float, attention.scale)
    q = q.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (k, v))
    q, k = attention.q_norm(q), attention.k_norm(k)  # type: ignore[operator]
    if not torch.is_grad_enabled():  # its backward pass is slow on a processor: see `prefer_plain_attention`
        return F.scaled_dot_product_attention(q, k, v, scale=scale).permute(2, 0, 1, 3).flatten(2)
    # matmul would copy k^T column by column, which takes longer than copying k row by row.
    weights = torch.softmax((q * scale) @ k.contiguous().mT, -1).to(v.dtype)
    return (weights @ v).permute(2, 0, 1, 3).flatten(2)
