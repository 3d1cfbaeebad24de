"""Sequential LoRA: one adapter, trained on and on. Shows what forgetting is."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from duallora.lowrank import AdaptedLinear, LowRank, slots
from duallora.lowrank.gated import GatedLowRank, Gates, Threshold
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import BackboneLike, Batches, MethodConfig, Shrinkage, State, part, prefixed
from duallora.methods.reading import ReadingMethod

Placement = tuple[Literal["query", "key", "value", "proj"], ...]


class AdapterConfig(MethodConfig):
    """Options of every method that puts low-rank updates beside the maps of a backbone."""

    rank: int = Field(8, ge=1, description="r of every update")
    scale: float = Field(1.0, gt=0, description="factor of the update, alpha / r in LoRA's terms")
    placement: Placement = Field(("value",), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class GateConfig(AdapterConfig):
    """How gates on rank directions are shut, where there are any."""

    xi: float = Field(
        Gates.xi, ge=0, description="step of the proximal map, taken after every update of the parameters"
    )
    gate_penalty: float = Field(Gates.penalty, ge=0, description="weight of the mean |g| in the loss")
    threshold: Threshold = Field(
        Gates.threshold, description="prox: the textbook's soft threshold; dead-zone: gates below 2 xi go to zero"
    )

    def gates(self) -> Gates:
        """As these options have it."""
        return Gates(self.xi, self.gate_penalty, self.threshold)


class LoRAConfig(GateConfig):
    """Options of `lora` and `joint`."""

    sparse: bool = Field(
        False,
        description="a gate on every rank direction, as in `sora` and with its `xi`, `gate_penalty` and `threshold`, "
        "which do nothing otherwise; after a task directions whose gate is zero are dropped, the others train on",
    )


class LoRA(ReadingMethod):
    """One LoRA adapter trained on every task in turn (Hu et al. 2022, arXiv 2106.09685): shows forgetting.

    A map W_0 (rows, d) becomes W_0 + scale B A, with A (r, d) random and B (rows, r) = 0 before the first task.

    Trains: A (r, d) and B (rows, r) of every adapted map, the newest head (local cross-entropy). Frozen: the backbone
    and the earlier heads. Kept per task: a head (and class Gaussians for the other read-outs). One pass per image.

    With `sparse` each rank direction has a gate, and training shuts some (see `duallora.methods.sora`): the rank of
    the one adapter can only fall from task to task. Where every gate of every map is shut nothing but heads trains from
    then on, and a note says so.
    """

    name: ClassVar[str] = "lora"
    Config: ClassVar[type[MethodConfig]] = LoRAConfig
    config: AdapterConfig
    kind: ClassVar[type[LowRank]] = LowRank

    def __init__(self, backbone: BackboneLike, config: AdapterConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config, config.shrinkage)
        self.gates = self._gates()
        kind = GatedLowRank if self.gates else self.kind
        self.adapters = nn.ModuleList()
        for slot in slots(backbone.attention, config.placement, config.blocks):
            adapter = AdaptedLinear(slot, config.rank, config.scale)
            for name, (_, width) in adapter.rows.items():
                if kind is not LowRank:
                    adapter.updates[name] = kind(adapter.base.in_features, width, config.rank)
            slot.attach(adapter)
            self.adapters.append(adapter)

    def _gates(self) -> Gates | None:
        """How gates are shut, where there are any."""
        config = self.config
        return config.gates() if isinstance(config, LoRAConfig) and config.sparse else None

    def adapted(self) -> list[AdaptedLinear]:
        """The wrapped maps."""
        return cast(list[AdaptedLinear], list(self.adapters))

    def updates(self) -> dict[str, LowRank]:
        """All updates by name, e.g. "0.value"."""
        adapters = enumerate(self.adapted())
        return {f"{i}.{name}": adapter.update_of(name) for i, adapter in adapters for name in adapter.rows}

    def gated(self) -> list[GatedLowRank]:
        """The updates that have gates."""
        return [update for update in self.updates().values() if isinstance(update, GatedLowRank)]

    def restart(self) -> None:
        """Set every update to a new beginning: A random, B = 0."""
        for update in self.updates().values():
            if isinstance(update, GatedLowRank):
                update.restart(self.config.rank)
            else:
                nn.init.kaiming_uniform_(update.A, a=5**0.5)
                nn.init.zeros_(update.B)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy of the newest head, and the penalty on gates where there are any."""
        loss = self._head_loss(self.backbone(images, levels=False).float(), labels)
        return loss + self.gates.loss(self.gated()) if self.gates else loss

    def _head_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """What the newest head says of a batch."""
        return self.read.local_loss(features, labels)

    def after_step(self) -> None:
        """The proximal step of the gates."""
        if self.gates:
            self.gates.step(self.gated())

    def end_task(self, batches: Batches) -> None:
        """Drop directions whose gate is shut, then the pass of the read-out."""
        gated = self.gated()
        before = sum(len(update.A) for update in gated)
        for update in gated:
            update.prune()
        own = isinstance(self.config, LoRAConfig)  # SoRA speaks for itself
        if own and before and not any(len(update.A) for update in gated):
            self.log.notes.append("all gates are shut: nothing of the adapter is left, the network is as it came")
        super().end_task(batches)

    def kept(self, update: LowRank) -> dict[str, Tensor]:
        """What of an update must be saved."""
        return dict(update.state_dict())

    def state(self) -> State:
        """Updates and read-out."""
        state = super().state()
        for name, update in self.updates().items():
            state |= prefixed(f"update.{name}", self.kept(update))
        return state

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        for name, update in self.updates().items():
            saved = part(f"update.{name}", state)
            if isinstance(update, GatedLowRank) and "A" in saved:
                update.resize(len(saved["A"]))  # the rank is what training left of it
            for key, own in self.kept(update).items():
                with torch.no_grad():
                    own.copy_(saved_tensor(saved, key, own.shape, f"update.{name}."))
