"""The first session: stages of the first task in which the network itself learns, as far as it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

from torch import Tensor, nn

from duallora.methods.base import Batches, Shrinkage
from duallora.methods.duallora.orthogonal import OrthogonalAdapter
from duallora.methods.duallora.rehearsal import SHARES, Rehearsal
from duallora.methods.duallora.site import DualLinear


class FirstSession(nn.Module):
    """In the first task nothing is to be protected yet (Panos et al. 2023, arXiv 2303.13199).

    One stage moves the network, by the orthogonal adapters; another, on the network as it then stands, learns heads and
    residuals. Two of rehearsal come before where they are to find the share, and may show that the network is better
    left where it is.

    Args:
        sites: the adapted maps.
        share: how far the network goes, in (0, 1]; None: as far as a `Rehearsal` finds best.
        classes: C of the task; for a rehearsal, `FEWEST` or more.
        dim: d of the final feature.
        shrinkage: of the Gaussians that a rehearsal asks.
    """

    def __init__(
        self, sites: Sequence[DualLinear], share: float | None, classes: int, dim: int, shrinkage: Shrinkage
    ) -> None:
        """Nothing has begun."""
        super().__init__()
        self.sites = (*sites,)  # in a tuple: they are modules of the method
        self.share, self.classes, self.dim, self.shrinkage = share or 0.0, classes, dim, shrinkage
        self.plan: list[Literal["rehearsal", "network", "heads"]] = ["network", "heads"]
        if share is None:
            self.plan = ["rehearsal", "rehearsal", *self.plan]
        self.rehearsal: Rehearsal | None = None
        self.moves = False  # whether the network itself is learning, be it in rehearsal

    def begin_stage(
        self, stage: int, features: Callable[[Tensor], Tensor], local: Callable[[Tensor], Tensor], batches: Batches
    ) -> str:
        """Take up the stage of this number; what follows, the plan may have changed, is `plan[stage]`.

        Args:
            stage: 0, 1, ...
            features, local, batches: for `Rehearsal.measure`.

        Returns:
            What is to be noted, once the share is known; else nothing.
        """
        note = ""
        if self.rehearsal:
            self.rehearsal.measure(features, local, batches)
        if self.plan[stage] == "rehearsal":
            if not self.rehearsal:
                adapters = [adapter for site in self.sites for adapter in site.orthogonal.values()]
                self.rehearsal = Rehearsal(
                    cast(list[OrthogonalAdapter], adapters), self.classes, self.dim, self.shrinkage
                )
            self.rehearsal.start(turn=stage)
        elif self.rehearsal:
            note = self._conclude(self.rehearsal)
        self.moves = self.plan[stage] != "heads"
        if not self.moves:
            for site in self.sites:
                site.settle(self.share)
        return note

    def _conclude(self, rehearsal: Rehearsal) -> str:
        self.share, self.rehearsal = rehearsal.finish(), None
        if not self.share:
            self.plan.remove("network")
        counts = rehearsal.counts
        each = ", ".join(f"{n / rehearsal.seen:.1%} at {s:.0%}" for s, n in zip(SHARES, counts, strict=True))
        chance = ": none beyond chance ahead of 0%" if not self.share and max(counts) > counts[0] else ""
        return (
            f"first session: {self.share:.0%} of the way, by classes left out in rehearsal, of whose {rehearsal.seen} "
            f"images it got right {each}{chance}"
        )
