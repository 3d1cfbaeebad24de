"""Linear heads on the frozen backbone."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from duallora.methods.base import BackboneLike, Batches, MethodConfig, Shrinkage
from duallora.methods.reading import ReadingMethod


class ProbeConfig(MethodConfig):
    """Options of `probe`."""

    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    centred: bool = Field(
        False,
        description="take out of a trained head what all its logits have in common, which its loss does not see but "
        "other tasks' heads do; so DualLoRA's own heads are treated",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class Probe(ReadingMethod):
    """Frozen backbone, one linear head per task trained by local cross-entropy: what heads alone can do.

    Trains: the newest head W_t, b_t, by -log softmax(W_t f + b_t)_y over the task's own classes, on features f that are
    computed once per task. Frozen: the backbone, earlier heads. Kept per task: a head; per class its Gaussian. One pass
    per image.
    """

    name: ClassVar[str] = "probe"
    Config: ClassVar[type[MethodConfig]] = ProbeConfig
    cached: ClassVar[bool] = True
    config: ProbeConfig

    def __init__(self, backbone: BackboneLike, config: ProbeConfig) -> None:
        """Nothing is attached."""
        super().__init__(backbone, config, config.shrinkage)

    def end_task(self, batches: Batches) -> None:
        """The Gaussians; and the head is centred where it is to be."""
        if self.config.centred:
            self.read.heads.centre()
        super().end_task(batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy; `images` are encoded features (b, D)."""
        return self.read.local_loss(images, labels)
