"""SLCA: the whole backbone fine-tuned slowly, then the heads aligned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank.saved import REMEDY, saved_tensor
from duallora.methods.align import Aligned, AlignSettings
from duallora.methods.base import BackboneLike, Group, MethodConfig, Shrinkage, State, part, prefixed


class SLCAConfig(MethodConfig):
    """Options of `slca`."""

    backbone_rate: float = Field(0.01, gt=0, description="learning rate of the backbone as a share of the heads'")
    align: AlignSettings = Field(AlignSettings(), description="how the heads are aligned after each task")
    readout: Literal["align", "heads", "tasks", "gaussian", "quadratic", "product"] = Field(
        "align",
        description="aligned heads; heads as they were trained; class Gaussians with a shared covariance; the same, on "
        "some features with each class's own besides",
    )
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class SLCA(Aligned):
    """Slow learner with classifier alignment (Zhang et al. 2023, arXiv 2303.05118).

    Slow learner: local cross-entropy of the newest head; every weight of the backbone trains at `backbone_rate` times
    the heads' rate, so that the features of earlier classes hardly move. Classifier alignment: see `Aligned`.

    Trains: the whole backbone, the newest head; after the task, a copy of all heads. Frozen: earlier heads. Kept: the
    fine-tuned backbone (it counts as kept: it takes the place of the pre-trained one, which other methods share), per
    class a mean, a covariance and how it spreads, the heads as trained and as aligned. One pass per image.

    From the public code: SGD with momentum 0.9, rate 0.01 for heads and 1e-4 for the backbone, weight decay 5e-4 for
    both, no clipping of gradients, 20 epochs (50 on ImageNet-R); these are `recommended`. Not taken over: batches of
    128 with one step down of the rate near the end (here the library's batches and cosine), and training mode, which
    for these backbones differs only where they have dropout.
    """

    name: ClassVar[str] = "slca"
    Config: ClassVar[type[MethodConfig]] = SLCAConfig
    recommended: ClassVar[Mapping[str, object]] = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "clip": 1e6,  # none
        "epochs": 20,
    }
    readouts: ClassVar[tuple[str, ...]] = ("align", "heads", "tasks", "gaussian", "quadratic", "product")
    frozen: ClassVar[bool] = False
    config: SLCAConfig

    def __init__(self, backbone: BackboneLike, config: SLCAConfig) -> None:
        """Let the whole backbone train."""
        super().__init__(backbone, config, config.shrinkage)
        self._network().requires_grad_(True)

    def _network(self) -> nn.Module:
        return cast(nn.Module, self.backbone)

    def groups(self) -> list[Group]:
        """The newest head at the full rate, the backbone at a share of it."""
        slow = list(self._network().parameters())
        held = {id(p) for p in slow}
        fast = [p for p in self.trainable() if id(p) not in held]
        return [Group(fast), Group(slow, self.config.backbone_rate)]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy of the newest head."""
        return self.read.local_loss(self.backbone(images, levels=False).float(), labels)

    def state(self) -> State:
        """Read-out, aligned heads and the backbone as it is now."""
        return super().state() | prefixed("backbone", self._network().state_dict())

    def load_state(self, state: State) -> None:
        """Restore `state()`, the backbone's weights too.

        Raises:
            DualLoRAError: weights are missing, or are those of another backbone.
        """
        own, saved = self._network().state_dict(), part("backbone", state)
        for name, tensor in own.items():
            saved_tensor(saved, name, tensor.shape, "backbone.")
        if surplus := saved.keys() - own.keys():
            raise DualLoRAError(f"backbone.{min(surplus)} was saved, but this backbone has none; {REMEDY}")
        self._network().load_state_dict(saved)
        super().load_state({k: v for k, v in state.items() if not k.startswith("backbone.")})
