"""SoRA in sequence: an update per task whose rank is found by gates that training shuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from duallora.lowrank.gated import Gates
from duallora.methods.base import Batches, MethodConfig
from duallora.methods.folding import FoldingLoRA
from duallora.methods.lora import GateConfig, Placement


class SoRAConfig(GateConfig):
    """Options of `sora`."""

    rank: int = Field(8, ge=1, description="r_max, the rank that every update starts from")
    scale: float = Field(2.0, gt=0, description="factor of the update; 2 is alpha / r of the public scripts")
    placement: Placement = Field(
        ("query", "key", "value", "proj"), min_length=1, description="adapted maps of each block"
    )


class SoRA(FoldingLoRA):
    """Sparse low-rank adaptation (Ding et al. 2023, arXiv 2311.11696), one task after the other.

    "Sparse Low-rank Adaptation of Pre-trained Language Models". Every rank direction of an update has a gate:

        x -> scale ((x A^T) * g) B^T             A (r_max, d) random, B (rows, r_max) = 0, g ~ N(0, 1)
        loss = CE + gate_penalty * mean |g|      over all gates
        after each step g <- sign(g) max(|g| - xi, 0), xi as it is, whatever the learning rate

    Directions whose gate is zero at the end of a task are dropped, and the gates of the others go into B.

    Trains: A, B and g of the task's update, the newest head. Frozen: the backbone, earlier updates and heads. Kept per
    task: the surviving directions, a head (and class Gaussians for the other read-outs). One pass per image.

    SoRA is no method for continual learning. For sequences this library folds the surviving directions of a task into
    the frozen map and starts the next task with a fresh update of rank r_max, so that capacity does not run out; the
    other way, the survivors trained on and on, is `lora` with `sparse`. The text's proximal map is the default; the
    public code tests for small gates after the step, which zeroes all below 2 xi (`threshold` "dead-zone"). Published
    besides and not done here: the two dense layers of each MLP are adapted and the layer norms trained too; the gates
    have an optimiser and a schedule of their own; xi may be raised in stages after convergence; batches of 8, weight
    decay 0.1, a warm-up of 6 % of the steps, gradients clipped at 0.1. The published xi comes from some ten thousand
    steps: with a few hundred per task most of the shrinking is the penalty's.
    """

    name: ClassVar[str] = "sora"
    Config: ClassVar[type[MethodConfig]] = SoRAConfig
    recommended: ClassVar[Mapping[str, object]] = {"learning_rate": 8e-4, "epochs": 20}  # of the public scripts
    config: SoRAConfig

    def _gates(self) -> Gates:
        return self.config.gates()

    def end_task(self, batches: Batches) -> None:
        """Prune and fold, then the pass of the read-out."""
        super().end_task(batches)
        if not self.ranks()[-1]:
            self.log.notes.append(
                "no rank direction survived, this task has left the backbone as it was. "
                f"Lower `xi` (now {self.config.xi:g}) or `gate_penalty` (now {self.config.gate_penalty:g})."
            )

    def ranks(self) -> list[int]:
        """Surviving directions of each task, over all adapted maps."""
        return [sum(ranks) for ranks in zip(*(folded.ranks for folded in self.folded().values()), strict=True)]
