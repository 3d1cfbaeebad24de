"""Gated rank directions and the proximal step that shuts gates: SoRA's way to find the rank by training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank.adapted import LowRank

Threshold = Literal["prox", "dead-zone"]


def shrink(gate: Tensor, xi: float, threshold: Threshold = "prox") -> Tensor:
    """Move gates by xi towards zero, where they stay.

    Args:
        gate: any shape.
        xi: size of the step.
        threshold: "prox" is the proximal map of xi |g|, sign(g) max(|g| - xi, 0); "dead-zone" looks for small gates
            only after the step, so that everything below 2 xi goes to zero.

    >>> shrink(torch.tensor([-3.0, 0.5, 1.5]), 1.0)
    tensor([-2.0000,  0.0000,  0.5000])
    >>> shrink(torch.tensor([-3.0, 0.5, 1.5]), 1.0, "dead-zone")
    tensor([-2.,  0.,  0.])
    """
    if threshold == "prox":
        return gate.sign() * (gate.abs() - xi).clamp_min(0)
    moved = torch.where(gate.abs() > xi, gate - xi * gate.sign(), gate)
    return torch.where(moved.abs() < xi, torch.zeros_like(moved), moved)


class GatedLowRank(LowRank):
    """x -> ((x A^T) * g) B^T with a gate g_i on each rank direction (Ding et al. 2023).

    A (r, d) and B (rows, r) as in LoRA, g (r,) ~ N(0, 1): a direction that starts negative does no harm, as B = 0.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        """`rank` is the largest one, r_max."""
        super().__init__(inputs, outputs, rank)
        self.gate = nn.Parameter(torch.randn(rank))

    def forward(self, x: Tensor) -> Tensor:
        """The update of x (..., d): (..., rows)."""
        return F.linear(F.linear(x, self.A), self.B * self.gate)

    def matrix(self) -> Tensor:
        """B diag(g) A (rows, d), float32."""
        A, B = self.factors()
        return B.float() @ A.float()

    def factors(self) -> tuple[Tensor, Tensor]:
        """What is left once shut directions are dropped and g is folded into B: A (k, d), B (rows, k)."""
        open_ = self.gate.detach() != 0
        return self.A.detach()[open_], (self.B.detach() * self.gate.detach())[:, open_]

    def prune(self) -> None:
        """Drop the shut directions for good; the others keep factors and gates."""
        open_ = self.gate.detach() != 0
        kept = self.A.detach()[open_], self.B.detach()[:, open_], self.gate.detach()[open_]
        self.A, self.B, self.gate = (nn.Parameter(t.clone(), requires_grad=t.numel() > 0) for t in kept)

    def resize(self, rank: int) -> None:
        """Room for `rank` directions, all shut and zero."""
        shapes = (rank, self.A.shape[1]), (self.B.shape[0], rank), (rank,)
        self.A, self.B, self.gate = (nn.Parameter(self.A.new_zeros(s), requires_grad=rank > 0) for s in shapes)

    def restart(self, rank: int) -> None:
        """As newly made, with `rank` directions."""
        self.resize(rank)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        nn.init.normal_(self.gate)


@dataclass(frozen=True)
class Gates:
    """How gates are driven to zero; the defaults are those of the public scripts without a schedule.

    Attributes:
        xi: step of `shrink` after every update of the parameters; it is not multiplied by the learning rate.
        penalty: weight of the mean |g| over all gates in the loss.
        threshold: see `shrink`.
    """

    xi: float = 3e-4
    penalty: float = 10.0
    threshold: Threshold = "prox"

    def loss(self, updates: Sequence[GatedLowRank]) -> Tensor:
        """The L1 term."""
        gates = torch.cat([update.gate for update in updates])
        return self.penalty * gates.abs().sum() / max(len(gates), 1)

    @torch.no_grad()
    def step(self, updates: Sequence[GatedLowRank]) -> None:
        """The proximal step on every gate."""
        for update in updates:
            update.gate.copy_(shrink(update.gate, self.xi, self.threshold))
