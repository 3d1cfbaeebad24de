"""C-LoRA: one adapter for all tasks, with a routing matrix between its factors."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor

from duallora.lowrank import LowRank
from duallora.lowrank.routed import Overlap, RoutedLowRank
from duallora.methods.base import Batches, Group, MethodConfig, State, TaskInfo
from duallora.methods.lora import AdapterConfig, LoRA, Placement


class CLoRAConfig(AdapterConfig):
    """Options of `clora`."""

    placement: Placement = Field(("query", "value"), min_length=1, description="adapted maps of each block")
    orthogonality: float = Field(0.1, ge=0, description="lambda, weight of the orthogonality term")
    overlap: Overlap = Field(
        "columns",
        description="the term: |R_old^T R_delta|^2, |R_old R_delta^T|^2, or that of the updates with their factors",
    )
    factors: Literal["frozen", "slow"] = Field("frozen", description="A and B after the first task")
    slow_rate: float = Field(0.1, gt=0, description="their share of the learning rate where they train on slowly")
    delta_std: float = Field(1e-4, ge=0, description="of the entries that a new R_delta starts from")


class CLoRA(LoRA):
    """Continual low-rank adaptation (Zhang et al. 2025, arXiv 2502.17920): one adapter, routed anew by each task.

    "C-LoRA: Continual Low-Rank Adaptation for Pre-trained Models". Every adapted map has, in LoRA's symbols,

        W_t = W_0 + B (R_old + R_delta) A        A (r, d), B (rows, r), R_old and R_delta (r, r)
        loss = CE + lambda L_orth(R_old, R_delta), summed over the adapted maps
        after the task R_old <- R_old + R_delta

    (the paper calls the factor on the output side A and the one on the input side B).

    Trains: in the first task A, B and R_delta; later R_delta; always the newest head. Frozen: the backbone, R_old,
    earlier heads. Kept per task: a head (and class Gaussians for the other read-outs); the adapter does not grow.
    One pass per image.

    Public sources tell of the shared factors, of R = R_old + R_delta with R_old frozen, and of a term that keeps
    R_delta orthogonal; not of the rest. Chosen here: the start of the first task is plain LoRA (R_old = 0, R_delta = I,
    B = 0), and a task that leaves B at zero, such as one of a single class, does not count as first; later R_delta
    starts near zero; A and B are then frozen (`factors`); the term is |R_old^T R_delta|_F^2 (`overlap`) with a weight
    of 0.1 (`orthogonality`), a guess; queries and values are adapted (`placement`); rank and head are as in `lora`.
    R_old is of full rank after the first task, so no R_delta but zero makes the term vanish: it acts as a decay that
    is strongest on the directions that earlier tasks use most. The published figures lie where methods with a stage
    that aligns the classifier lie; there is none here.
    """

    name: ClassVar[str] = "clora"
    Config: ClassVar[type[MethodConfig]] = CLoRAConfig
    config: CLoRAConfig
    kind: ClassVar[type[LowRank]] = RoutedLowRank

    def routed(self) -> list[RoutedLowRank]:
        """All updates."""
        return cast(list[RoutedLowRank], list(self.updates().values()))

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A new increment and a new head."""
        for update in self.routed():
            update.begin(self.config.delta_std, self.config.factors == "slow")
        super().begin_task(task, batches)

    def groups(self) -> list[Group]:
        """Factors that were trained already learn at `slow_rate`."""
        slow = [p for u in self.routed() if u.trained for p in (u.A, u.B) if p.requires_grad]
        held = {id(p) for p in slow}
        return [Group([p for p in self.trainable() if id(p) not in held]), Group(slow, self.config.slow_rate)]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy and the orthogonality term."""
        loss = super().loss(images, labels)
        for update in self.routed():
            loss = loss + self.config.orthogonality * update.overlap(self.config.overlap)
        return loss

    def end_task(self, batches: Batches) -> None:
        """Add the increment to the routing, then the pass of the read-out."""
        for update in self.routed():
            update.end()
        super().end_task(batches)

    def kept(self, update: LowRank) -> dict[str, Tensor]:
        """A, B and R; between tasks the increment is zero."""
        return {key: value for key, value in update.state_dict().items() if key != "delta"}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        for update in self.routed():
            update.delta.data.zero_()
