"""How a task is trained: the same settings for every method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Settings that make no difference to what is measured, nor to how a run that broke off goes on.
INDIFFERENT = ("evaluation_batch_size",)


class TrainingSettings(BaseModel):
    """Settings of the loop; all methods are trained by it.

    >>> TrainingSettings(epochs=3).optimizer
    'adamw'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(5, ge=0, strict=True, description="passes over the training images of a task")
    batch_size: int = Field(64, ge=1, strict=True, description="images per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak rate")
    weight_decay: float = Field(0.0, ge=0, description="decoupled from the gradient under adamw")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: with momentum 0.9")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps during which the rate rises")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the rate once it has risen: falls to zero by half a cosine, or stays"
    )
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device computes in it"
    )
    augment: Literal["none", "crop", "shift", "standard"] = Field(
        "standard",
        description="standard: random crop and flip; shift: by up to an eighth of the side, and flip (small images); "
        "crop: milder crop, no flip; none",
    )
    smallest_crop: float | None = Field(
        None, gt=0, le=1, description="share of the image's area that a crop keeps at least; by default 0.5, milder 0.7"
    )
    mix: Literal["none", "mixup", "cutmix", "both"] = Field(
        "none",
        description="blend images of a batch and their labels: mixup, cutmix, or batch by batch either at random",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a label that the loss spreads over all classes of the task"
    )
    workers: int = Field(0, ge=0, description="processes that decode images of large sets")
    evaluation_batch_size: int | None = Field(
        None,
        ge=1,
        description="images per pass without gradients; by default 256, on a processor 64: more outgrow its caches",
    )

    def images_per_pass(self, device: str) -> int:
        """How many images go through the network at once where nothing trains, on a type of device.

        >>> TrainingSettings().images_per_pass("cpu")
        64
        """
        return self.evaluation_batch_size or (64 if device == "cpu" else 256)
