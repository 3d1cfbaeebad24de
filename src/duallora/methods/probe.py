"""Linear heads on the frozen backbone."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from duallora.methods.base import BackboneLike, MethodConfig, Shrinkage
from duallora.methods.reading import ReadingMethod


class ProbeConfig(MethodConfig):
    """Options of `probe`."""

    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class Probe(ReadingMethod):
    """Frozen backbone, one linear head per task trained by local cross-entropy: what heads alone can do.

    Trains: the newest head, on features that are computed once per task. Kept per task: a head. One pass per image.
    """

    name: ClassVar[str] = "probe"
    Config: ClassVar[type[MethodConfig]] = ProbeConfig
    cached: ClassVar[bool] = True
    config: ProbeConfig

    def __init__(self, backbone: BackboneLike, config: ProbeConfig) -> None:
        """Nothing is attached."""
        super().__init__(backbone, config, config.shrinkage)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy; `images` are encoded features (b, D)."""
        return self.read.local_loss(images, labels)
