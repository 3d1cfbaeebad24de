"""One low-rank update with a routing matrix between its factors, which grows by one increment per task (C-LoRA)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank.adapted import LowRank

Overlap = Literal["columns", "rows", "update"]


class RoutedLowRank(LowRank):
    """x -> x (B (R + delta) A)^T: A (r, d) and B (rows, r) shared by all tasks, R and delta (r, r).

    R is what earlier tasks have added up, delta the increment of the task in training.
    """

    R: Tensor

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        """R = 0, delta = I: a plain update."""
        super().__init__(inputs, outputs, rank)
        self.register_buffer("R", torch.zeros(rank, rank))
        self.delta = nn.Parameter(torch.eye(rank))

    def forward(self, x: Tensor) -> Tensor:
        """The update of x (..., d): (..., rows)."""
        return F.linear(F.linear(x, self.A), self.B @ (self.R + self.delta))

    def matrix(self) -> Tensor:
        """B (R + delta) A (rows, d), float32."""
        return self.B.detach().float() @ (self.R + self.delta.detach()).float() @ self.A.detach().float()

    @property
    def trained(self) -> bool:
        """Whether the factors have learned anything: with B = 0 no routing has any effect."""
        return bool(self.B.detach().any())

    @torch.no_grad()
    def begin(self, std: float, factors: bool) -> None:
        """Start a task.

        Args:
            std: of the new increment's entries; before anything was learned it is I instead.
            factors: whether A and B train beside it, once something was learned.
        """
        first = not self.trained
        if first:
            self.R.zero_()
            nn.init.eye_(self.delta)
        else:
            self.delta.normal_(std=std)
        for factor in (self.A, self.B):
            factor.requires_grad_(first or factors)

    @torch.no_grad()
    def end(self) -> None:
        """R <- R + delta, delta <- 0."""
        self.R += self.delta
        self.delta.zero_()

    def overlap(self, form: Overlap) -> Tensor:
        """How far the increment is from orthogonal to what is there, a squared Frobenius norm.

        Args:
            form: "columns" |R^T delta|^2 (the sides towards B), "rows" |R delta^T|^2 (those towards A), or "update"
                |(B R A)^T (B delta A)|^2, which sees the factors too.
        """
        with torch.autocast(self.delta.device.type, enabled=False):
            if form == "columns":
                return (self.R.T @ self.delta).square().sum()
            if form == "rows":
                return (self.R @ self.delta.T).square().sum()
            # |A^T M A|^2 = tr(M^T K M K) with K = A A^T: nothing of size d x d is made.
            M = self.R.T @ (self.B.T @ self.B) @ self.delta
            K = self.A @ self.A.T
            return ((K @ M @ K) * M).sum()
