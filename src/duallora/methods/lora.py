"""Sequential LoRA: one adapter, trained on and on. Shows what forgetting is."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank import AdaptedLinear, LowRank, slots
from duallora.methods.base import BackboneLike, MethodConfig, State
from duallora.methods.reading import ReadingMethod

Placement = tuple[Literal["query", "key", "value", "proj"], ...]


class LoRAConfig(MethodConfig):
    """Options of `lora` and `joint`."""

    rank: int = Field(8, ge=1, description="r of every update")
    scale: float = Field(1.0, gt=0, description="factor of the update, alpha / r in LoRA's terms")
    placement: Placement = Field(("value",), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    readout: Literal["heads", "gaussian"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: float | Literal["oas"] = Field("oas", description="of the covariance of the Gaussian read-out")


class LoRA(ReadingMethod):
    """One LoRA adapter trained on every task in turn (Hu et al. 2022), the baseline that shows forgetting.

    Trains: A (r, d) and B (rows, r) of every adapted map, the newest head (local cross-entropy). Frozen: the backbone
    and the earlier heads. Kept per task: a head (and class Gaussians for the "gaussian" read-out). One pass per image.
    """

    name: ClassVar[str] = "lora"
    Config: ClassVar[type[MethodConfig]] = LoRAConfig
    config: LoRAConfig

    def __init__(self, backbone: BackboneLike, config: LoRAConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config, config.shrinkage)
        self.adapters = nn.ModuleList()
        for slot in slots(backbone.attention, config.placement, config.blocks):
            adapter = AdaptedLinear(slot, config.rank, config.scale)
            slot.attach(adapter)
            self.adapters.append(adapter)

    def updates(self) -> dict[str, LowRank]:
        """All updates by name, e.g. "0.value"."""
        adapters = enumerate(cast(list[AdaptedLinear], list(self.adapters)))
        return {f"{i}.{name}": adapter.update_of(name) for i, adapter in adapters for name in adapter.rows}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy of the newest head."""
        return self.read.local_loss(self.backbone(images).float(), labels)

    def state(self) -> State:
        """Factors and read-out."""
        state = super().state()
        for name, update in self.updates().items():
            state[f"update.{name}.A"], state[f"update.{name}.B"] = update.A.detach(), update.B.detach()
        return state

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        for name, update in self.updates().items():
            for factor, own in (("A", update.A), ("B", update.B)):
                saved = state.get(f"update.{name}.{factor}")
                if saved is None or saved.shape != own.shape:
                    found = "missing" if saved is None else f"shape {tuple(saved.shape)}"
                    raise DualLoRAError(f"update.{name}.{factor}: {found}, expected shape {tuple(own.shape)}")
                own.data.copy_(saved)
