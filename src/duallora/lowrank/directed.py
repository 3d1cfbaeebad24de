"""A frozen linear map with normalised low-rank directions and magnitudes that it shares with other maps."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank.adapted import LowRank, Slot
from duallora.lowrank.directions import Norm, divisors, gram, lengths


class DirectedLinear(nn.Module):
    """A frozen linear map plus sum over k of alpha_k D_k, D_k = B_k A_k / length, for each target.

    In training all directions are one low-rank product; between tasks the sum is folded into the weight, from which
    `begin` takes it out again.
    """

    def __init__(self, slot: Slot, norm: Norm = "product", normalise_live: bool = True) -> None:
        """Wrap the slot's map; `slot.attach(self)` puts it in place.

        Args:
            slot: the map and its targets.
            norm: what a direction's length is.
            normalise_live: whether the direction in training has length one too, or the finished ones alone.
        """
        super().__init__()
        self.base = slot.linear
        self.rows, self.norm, self.normalise_live = dict(slot.rows), norm, normalise_live
        d = self.base.in_features
        self.factors = {name: (torch.zeros(0, d), torch.zeros(n, 0)) for name, (_, n) in self.rows.items()}
        self.owner = torch.zeros(0, dtype=torch.int64)  # (R,) direction of each rank
        self.live = nn.ModuleDict()  # A, B of the direction in training
        self.alpha: tuple[Tensor, ...] = ()  # magnitudes, shared by all maps; in a tuple: not this module's own
        self.original: dict[str, Tensor] = {}  # the weight's rows, while a sum is folded into them
        self.start: dict[str, tuple[Tensor, Tensor]] = {}  # the direction in training as it began

    @property
    def weight(self) -> Tensor:
        """The map's weight, with all directions between tasks."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (b, N, d) -> (b, N, outputs)."""
        y: Tensor = self.base(x)
        for name in self.live:
            A, B = self.acting(name)
            with torch.autocast(A.device.type, enabled=False):
                A = A * self.alpha[0][self.owner].unsqueeze(1)
            first, width = self.rows[name]
            y.narrow(-1, first, width).add_(F.linear(F.linear(x, A), B))
        return y

    def acting(self, name: str) -> tuple[Tensor, Tensor]:
        """All directions of a target without their magnitudes, that in training last: A (R, d), B (rows, R)."""
        A, B = self.factors[name]
        if name not in self.live:
            return A, B
        new = cast(LowRank, self.live[name])
        down: Tensor = new.A
        if self.normalise_live:
            one = self.owner.new_zeros(len(down))
            with torch.autocast(down.device.type, enabled=False):
                down = down / lengths(down, new.B, one, 1, self.norm)
        return torch.cat([A, down]), torch.cat([B, new.B], 1)

    def begin(self, alpha: Tensor, rank: int) -> None:
        """Take the folded sum out, give every finished direction its length of one, start a new one.

        Args:
            alpha: (K + 1,) magnitudes of the K finished directions and the new one.
            rank: of the new one.
        """
        device, K = self.base.weight.device, len(alpha) - 1
        self._unfold()
        self.owner = self.owner.to(device)
        for name, (_, width) in self.rows.items():
            A, B = (factor.to(device) for factor in self.factors[name])
            with torch.autocast(device.type, enabled=False):
                A = A / divisors(A, B, self.owner, K, self.norm)[self.owner].unsqueeze(1)
            self.factors[name] = (A, B)
            new = LowRank(A.shape[1], width, rank)
            if self.normalise_live:
                nn.init.normal_(new.B, std=0.02)  # B = 0 would have no direction
            self.live[name] = new.to(device)
            self.start[name] = (new.A.detach().clone(), new.B.detach().clone())
        self.owner = torch.cat([self.owner, self.owner.new_full((rank,), K)])
        self.alpha = (alpha,)

    def turned(self) -> float:
        """1 - cosine between the direction in training and where it began, the most of all targets.

        Weight decay alone turns nothing, nor has anything turned that is zero still.
        """
        most = 0.0
        for name, (A, B) in self.start.items():
            new = cast(LowRank, self.live[name])
            if not new.B.any():
                continue
            pair = torch.cat([A, new.A.detach()]).cpu().double(), torch.cat([B, new.B.detach()], 1).cpu().double()
            G = gram(*pair, torch.tensor([0] * len(A) + [1] * len(new.A)), 2)
            most = max(most, 1 - float(G[0, 1] / (G[0, 0] * G[1, 1]).sqrt().clamp_min(1e-30)))
        return most

    def end(self) -> None:
        """Freeze the new direction as it acts."""
        self.factors = {name: (A.detach(), B.detach()) for name in self.rows for A, B in [self.acting(name)]}
        self.live, self.start = nn.ModuleDict(), {}

    def drop(self) -> None:
        """Forget the last direction."""
        kept = int((self.owner < self.owner.max()).sum())
        self.owner = self.owner[:kept]
        self.factors = {name: (A[:kept], B[:, :kept].contiguous()) for name, (A, B) in self.factors.items()}

    def gram(self, count: int) -> Tensor:
        """Inner products of the directions as they act, summed over targets: (count, count), float64, on the CPU."""
        owner, pairs = self.owner.cpu(), [(A.cpu().double(), B.cpu().double()) for A, B in self.factors.values()]
        return torch.stack([gram(A, B, owner, count) for A, B in pairs]).sum(0)

    def fold(self, alpha: Tensor) -> None:
        """W <- W + sum over k of alpha_k D_k for each target."""
        with torch.no_grad(), torch.autocast(alpha.device.type, enabled=False):
            for name, (first, width) in self.rows.items():
                A, B = self.factors[name]
                rows = self.base.weight[first : first + width]
                self.original[name] = rows.clone()
                rows += (B @ (A * alpha[self.owner].unsqueeze(1))).to(rows.dtype)

    def _unfold(self) -> None:
        """Put the original rows back, bit by bit."""
        with torch.no_grad():
            for name, rows in self.original.items():
                first, width = self.rows[name]
                self.base.weight[first : first + width] = rows.to(self.base.weight.device)
        self.original = {}
