"""Every choice of DualLoRA as a named field.

The public sources leave them open; docs/ablation.md tells what is known of the defaults.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duallora.methods.base import MethodConfig, Shrinkage
from duallora.methods.lora import Placement


class DualLoRAConfig(MethodConfig):
    """Options of `duallora`.

    >>> DualLoRAConfig(rank=4, residual="none").placement
    ('value',)
    """

    rank: int = Field(8, ge=1, description="rank of the orthogonal adapter")
    first_rank: int | None = Field(
        None, ge=1, description="its rank in the first task, when nothing is to be protected yet; as `rank`"
    )
    placement: Placement = Field(("value",), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    feature: Literal["class_attention", "all_tokens", "per_head"] = Field(
        "all_tokens",
        description="whose second moment the bases hold: what the class token reads, every token, "
        "or each head's reading",
    )
    energy: float = Field(0.95, gt=0, le=1, description="eps: share of the second moment that the bases hold")
    energy_decay: float = Field(1.0, gt=0, le=1, description="1 - eps is multiplied by this after every task")
    reserve: int = Field(8, ge=0, description="directions per block that stay free whatever the tasks use")

    orthogonal: bool = Field(True, description="train the orthogonal adapter")
    orthogonal_rate: float = Field(
        0.1,
        gt=0,
        description="learning rate of what changes the network for every task (orthogonal adapter, residuals in the "
        "maps), in units of `training.learning_rate`",
    )
    first_rate: float | None = Field(
        3.0,
        gt=0,
        description="first session: the rate, in units of `training.learning_rate`, at which the network itself learns "
        "the first task, when nothing is to be protected yet, in a stage of its own before residual and heads; null: "
        "none, the first task is learned as every other",
    )
    first_placement: Placement = Field(
        ("query", "key", "value"),
        min_length=1,
        description="maps that the first task adapts where there is a `first_rate`",
    )
    first_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="how far the network goes from where it was to where the first session has taken it (weights "
        "averaged as by Wortsman et al. 2022); null: as far as serves classes best that are left out of it in a "
        "rehearsal, not at all where none is served beyond chance, and no session where the first task has fewer than "
        "four classes",
    )
    residual: Literal["class", "maps", "both", "none"] = Field(
        "class",
        description="where residual adapters lie: on a class token that each task has for itself, in the maps of "
        "`placement`, gated, on both, or nowhere",
    )
    class_rank: int = Field(16, ge=1, description="rank of each task's residual of the class token")
    class_blocks: tuple[int, ...] | Literal["last", "later", "all"] = Field(
        "last", description="blocks that it asks; last: the last third, later: all but the first third"
    )
    class_rate: float = Field(
        3.0, gt=0, description="its learning rate, and its head's, in units of `training.learning_rate`"
    )
    class_smoothing: float = Field(
        0.1, ge=0, lt=1, description="share of a label that its head's loss spreads over all classes of the task"
    )
    residual_rank: int = Field(2, ge=1, description="rank of each task's residual in the maps")
    residual_basis: Literal["previous", "own", "all"] = Field(
        "previous", description="span that the residual reads from"
    )
    gate: Literal["off", "basis", "task", "posterior"] = Field(
        "basis",
        description="weight of a residual for an image: 1; relevance of the basis it lives in; "
        "of the task that learned it; posterior of that task from class Gaussians in the block and those before it. "
        "Bases and Gaussians are measured with the newest residual at 1",
    )

    readout: Literal["product", "quadratic", "gaussian", "posterior", "tasks", "energy", "heads"] = Field(
        "product",
        description="heads, those of the residual class tokens where there are any, times class Gaussians; class "
        "Gaussians of the features, on some with each class's own covariance; the same with one covariance "
        "for all; task posterior of those times own heads; heads with one Gaussian per task; heads calibrated by the "
        "energy in the bases (the paper's letter); heads alone",
    )
    temperature: float = Field(0.1, gt=0, description="T of the task posterior from energies")
    confidence: Literal["max", "margin", "entropy"] = Field("margin", description="c, how sure the task posterior is")
    calibration: float = Field(
        1.0, ge=0, description="lambda: weight of c log pi in the logits; 0 leaves them as they are"
    )
    evidence_blocks: tuple[int, ...] | None = Field(
        None, description="blocks whose energies are averaged; all by default"
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of all Gaussians")

    head_init: Literal["random", "gaussian"] = Field(
        "gaussian",
        description="start of a new head of the network (a residual's starts at random): small random weights, or the "
        "discriminant of the features before training (not in a first session: nothing would be left to learn)",
    )
    loss: Literal["local", "seen"] = Field(
        "local",
        description="of the network's head: cross-entropy over the task's classes, or with the Gaussians of earlier "
        "classes as competitors",
    )
    carry: bool = Field(
        True,
        description="move the Gaussians of earlier classes along with the change of features that the new images "
        "show (those of the read-outs, not those that gate `posterior` asks)",
    )

    def idle(self) -> frozenset[str]:
        """Options of a first session, of residuals or of the orthogonal adapter where there are none.

        >>> sorted(DualLoRAConfig(residual="both", first_rate=None).idle()), sorted(DualLoRAConfig().idle())
        (['first_placement', 'first_share'], ['gate', 'residual_basis', 'residual_rank'])
        """
        session = () if self.has_first_session else ("first_share", "first_placement")
        own = () if self.residual_class else ("class_rank", "class_blocks", "class_rate", "class_smoothing")
        maps = () if self.residual_maps else ("gate", "residual_basis", "residual_rank")
        adapter = () if self.orthogonal else ("rank", "first_rank", "first_rate")
        still = () if self.moves else ("orthogonal_rate", "carry")
        return frozenset((*session, *own, *maps, *adapter, *still))

    @property
    def moves(self) -> bool:
        """Whether anything in the network's maps ever changes."""
        return self.orthogonal or self.residual_maps

    @property
    def has_first_session(self) -> bool:
        """Whether the first task has a session, if its classes are enough."""
        return self.orthogonal and self.first_rate is not None

    def adapts(self, session: bool) -> Placement:
        """The maps whose orthogonal adapters train in a first session or in any other task."""
        if not self.orthogonal:
            return ()
        return self.first_placement if session else self.placement

    @property
    def sites(self) -> Placement:
        """The maps that a task may adapt."""
        return (*self.placement, *(self.first_placement if self.has_first_session else ()))

    @property
    def residual_maps(self) -> bool:
        """Whether residuals lie in the maps."""
        return self.residual in ("maps", "both")

    @property
    def residual_class(self) -> bool:
        """Whether each task has a class token for itself."""
        return self.residual in ("class", "both")

    def class_blocks_of(self, depth: int) -> tuple[int, ...] | None:
        """The blocks that a residual of the class token asks in a network of `depth` blocks; None is all.

        >>> DualLoRAConfig().class_blocks_of(6)
        (4, 5)
        """
        if self.class_blocks == "last":
            return tuple(range(2 * depth // 3, depth))
        if self.class_blocks == "later":
            return tuple(range(depth // 3, depth))
        return None if self.class_blocks == "all" else self.class_blocks

    def energy_at(self, task: int) -> float:
        """eps for a task, 0-based."""
        return 1 - (1 - self.energy) * self.energy_decay**task
