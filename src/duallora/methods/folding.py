"""Base of the methods that learn an update per task and sum them all."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from duallora.lowrank.folded import Folded
from duallora.lowrank.gated import GatedLowRank
from duallora.methods.base import BackboneLike, Batches, State, TaskInfo, part, prefixed
from duallora.methods.lora import AdapterConfig, LoRA
from duallora.methods.reading import ReadingMethod


class FoldingLoRA(LoRA):
    """A fresh update for every task; when the task ends, it is folded into the map and kept as factors."""

    def __init__(self, backbone: BackboneLike, config: AdapterConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config)
        self._folded = nn.ModuleList(
            Folded(adapter.base, *rows) for adapter in self.adapted() for rows in adapter.rows.values()
        )

    def folded(self) -> dict[str, Folded]:
        """The finished updates, by the names of `updates`."""
        return dict(zip(self.updates(), cast(list[Folded], list(self._folded)), strict=True))

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A fresh update and a new head."""
        self.restart()
        super().begin_task(task, batches)

    def end_task(self, batches: Batches) -> None:
        """Fold the update, then the pass of the read-out."""
        folded = self.folded()
        for name, update in self.updates().items():
            A, B = update.factors() if isinstance(update, GatedLowRank) else (update.A, update.B)
            folded[name].add(A, B * self.config.scale)
            with torch.no_grad():
                update.B.zero_()
        super().end_task(batches)

    def state(self) -> State:
        """Read-out and finished updates; between tasks the fresh one is zero."""
        state = ReadingMethod.state(self)
        for name, folded in self.folded().items():
            state |= prefixed(f"folded.{name}", folded.state())
        return state

    def load_state(self, state: State) -> None:
        """Restore `state()` into a fresh method."""
        ReadingMethod.load_state(self, state)
        for name, folded in self.folded().items():
            folded.load_state(part(f"folded.{name}", state))
