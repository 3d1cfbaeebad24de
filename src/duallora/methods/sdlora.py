"""SD-LoRA: directions of finished tasks are fixed, how far to go along each is learned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from duallora.lowrank import slots
from duallora.lowrank.directed import DirectedLinear
from duallora.lowrank.directions import Norm, combination
from duallora.methods.base import BackboneLike, Batches, MethodConfig, Shrinkage, State, TaskInfo
from duallora.methods.lora import Placement
from duallora.methods.reading import ReadingMethod

_TURNED = 1e-6  # 1 - cosine from which a direction counts as learned; rounding is far below


class SDLoRAConfig(MethodConfig):
    """Options of `sdlora`.

    >>> [SDLoRAConfig(reduced=((4, 8), (8, 6))).rank_of(task) for task in (0, 2, 3, 7)]
    [10, 10, 8, 6]
    """

    rank: int = Field(10, ge=1, description="r of every direction")
    reduced: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        (), description="(task counted from 1, rank from that task on); ((4, 8), (8, 6)) is the paper's SD-LoRA-RR"
    )
    placement: Placement = Field(("query", "value"), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    norm: Norm = Field(
        "product",
        description="length of a direction: ||B A|| as in the paper, or ||B|| ||A|| as in the authors' code (factors)",
    )
    current: Literal["normalised", "plain"] = Field(
        "normalised",
        description="whether the direction in training is divided by its length, as in the paper, or only once it is "
        "finished, as in the authors' code",
    )
    magnitude: float = Field(1.0, gt=0, description="start of a magnitude; 0.8 in the authors' code")
    restart: bool = Field(
        False, description="a new task starts all magnitudes afresh, as the authors' code does, not its own alone"
    )
    absorb: float | None = Field(
        None,
        ge=0,
        description="share of a new direction's square below which what earlier directions cannot express is dropped "
        "and the direction with it (SD-LoRA-KD; the paper's threshold is 9e-4); by default all are stored",
    )
    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")

    @model_validator(mode="after")
    def _absorbed_is_remembered(self) -> Self:
        if self.absorb is not None and self.restart:
            raise ValueError(
                "absorb puts a direction into the magnitudes of earlier ones and restart forgets those: "
                "set restart to false, or leave absorb out"
            )
        return self

    def rank_of(self, task: int) -> int:
        """r of a task, 0-based."""
        begun = [step for step in self.reduced if step[0] <= task + 1]
        return max(begun)[1] if begun else self.rank


class SDLoRA(ReadingMethod):
    """Scalable decoupled low-rank adaptation (SD-LoRA, Wu et al., ICLR 2025, arXiv 2501.13198).

    Queries and values of every block get, with directions D_k of rank r and one magnitude alpha_k per task that all
    blocks and maps share,

        W_t = W_0 + sum over k <= t of alpha_k D_k,    D_k = B_k A_k / ||B_k A_k||_F.

    Trains: A_t and B_t of the new direction, all magnitudes alpha_1 ... alpha_t, the newest head (local
    cross-entropy). Frozen: the backbone, earlier directions and heads. Kept per task: a direction (2 d r numbers per
    map), a magnitude, a head, class Gaussians for the other read-outs. One pass per image, at the cost of the plain
    backbone: between tasks the sum is folded into the weight.

    Variants of the paper: fewer ranks for later tasks (`reduced`, SD-LoRA-RR), and directions that earlier ones can
    express put into their magnitudes (`absorb`, SD-LoRA-KD).

    The authors' code differs from the equation: norm="factors", current="plain", magnitude=0.8, restart=True gives it,
    with SGD at 0.008 or 0.01 and 20 epochs. The defaults are the equation's.

    Where the sources are silent, and what was chosen:
    - Start of a direction that is normalised from the first step: B cannot be zero, it is drawn with deviation 0.02.
    - Magnitudes at a new task, by the equation: earlier ones go on from where they are.
    - `absorb`: one set of coefficients for all blocks and maps, as the magnitudes are shared; the residual is squared,
      summed over them and divided by the direction's own square. How the paper scales its 9e-4 was not found.
    - `reduced`: tasks are counted from one.
    - Heads start from small random weights and no bias, in every method here; the authors' from PyTorch's default.
    - Batches of 128 are not taken over; cosine, warm-up and clipping of gradients are the library's under the defaults.
    - A task that turns no direction, such as one of a single class, keeps none: at length one what was drawn at random
      would act like a learned one.
    """

    name: ClassVar[str] = "sdlora"
    Config: ClassVar[type[MethodConfig]] = SDLoRAConfig
    recommended: ClassVar[Mapping[str, object]] = {"learning_rate": 8e-3, "epochs": 20}  # of the paper, under Adam
    config: SDLoRAConfig

    def __init__(self, backbone: BackboneLike, config: SDLoRAConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config, config.shrinkage)
        self.magnitudes = nn.Parameter(torch.zeros(0), requires_grad=False)  # alpha (K,)
        self.sites = nn.ModuleList()
        for slot in slots(backbone.attention, config.placement, config.blocks):
            site = DirectedLinear(slot, config.norm, config.current == "normalised")
            slot.attach(site)
            self.sites.append(site)

    def _sites(self) -> list[DirectedLinear]:
        return cast(list[DirectedLinear], list(self.sites))

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A new head, a new direction in every map, magnitudes that train."""
        old, start = self.magnitudes.detach(), self.config.magnitude
        if self.config.restart:
            old = torch.full_like(old, start)
        self.magnitudes = nn.Parameter(torch.cat([old, old.new_full((1,), start)]))
        for site in self._sites():
            site.begin(self.magnitudes, self.config.rank_of(task.index))
        super().begin_task(task, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy of the newest head."""
        return self.read.local_loss(self.backbone(images, levels=False).float(), labels)

    def end_task(self, batches: Batches) -> None:
        """Freeze or absorb the direction, fold the sum, one pass for the class Gaussians."""
        learned = any(site.turned() > _TURNED for site in self._sites())
        for site in self._sites():
            site.end()
        self._settle(self.magnitudes.detach())
        if learned:
            self._absorb()
        else:
            self._drop(self.magnitudes.detach()[:-1])
            self.log.notes.append("nothing was learned (as from a single class, or in no epoch): no direction is kept")
        for site in self._sites():
            site.fold(self.magnitudes)
        super().end_task(batches)

    def _settle(self, alpha: Tensor) -> None:
        self.magnitudes = nn.Parameter(alpha, requires_grad=False)

    def _absorb(self) -> None:
        """Put the new direction into the magnitudes of earlier ones, where those can express it."""
        alpha = self.magnitudes.detach()
        if self.config.absorb is None or len(alpha) == 1:
            return
        c, rest = combination(torch.stack([site.gram(len(alpha)) for site in self._sites()]).sum(0))
        if rest >= self.config.absorb:
            return
        self._drop(alpha[:-1] + alpha[-1] * c.to(alpha))
        self.log.notes.append(f"direction absorbed by the {len(c)} earlier ones; {rest:.1e} of its square was dropped")

    def _drop(self, alpha: Tensor) -> None:
        """Forget the new direction; `alpha` are the magnitudes of the others from here on."""
        self._settle(alpha)
        for site in self._sites():
            site.drop()

    def state(self) -> State:
        """Read-out, magnitudes, factors of all directions."""
        sites = self._sites()
        state = super().state() | {"magnitudes": self.magnitudes.detach(), "owner": sites[0].owner}
        for i, site in enumerate(sites):
            for name in site.rows:
                state[f"site.{i}.{name}.A"], state[f"site.{i}.{name}.B"] = site.factors[name]
        return state

    def load_state(self, state: State) -> None:
        """Restore `state()` into a fresh method."""
        super().load_state(state)
        self._settle(state["magnitudes"].to(self.magnitudes.device))
        for i, site in enumerate(self._sites()):
            device = site.base.weight.device
            site.owner = state["owner"].to(device)
            for name in site.rows:
                A, B = (state[f"site.{i}.{name}.{key}"].to(device) for key in "AB")
                site.factors[name] = (A, B)
            site.fold(self.magnitudes)
