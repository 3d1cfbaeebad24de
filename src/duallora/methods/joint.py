"""Joint training on all images so far: the upper bound, not a continual learner."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from duallora.methods.base import BackboneLike, Batches, Cost, MethodConfig, TaskInfo
from duallora.methods.lora import AdapterConfig, LoRA, LoRAConfig
from duallora.methods.readout import Readout


class JointConfig(LoRAConfig):
    """Options of `joint`: those of `lora`, with the start of the head that serves one head over all classes best."""

    readout: Literal["heads", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "gaussian",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )


class Joint(LoRA):
    """One LoRA adapter and one head trained on the images of all tasks at once, afresh at every task.

    It keeps every image, so it is only a yardstick: what the same adapter, W_0 + scale B A as in `lora`, could reach if
    nothing were ever thrown away.

    Trains, at every task anew: A and B of `placement`, one head over all rows, by cross-entropy over classes. Frozen:
    the backbone. Kept: the update, the head, class Gaussians for the other read-outs, all images. One pass per image.
    Like every method it has a row per class and task; a class's score is the best of its rows, in the loss as in the
    answer, so that the domains that a class is in need not be told apart.
    """

    name: ClassVar[str] = "joint"
    Config: ClassVar[type[MethodConfig]] = JointConfig
    cumulative: ClassVar[bool] = True
    readouts: ClassVar[tuple[str, ...]] = ("heads", "gaussian", "quadratic", "product")  # one head knows the tasks
    images = 0  # of all tasks so far

    def __init__(self, backbone: BackboneLike, config: AdapterConfig) -> None:
        """As `lora`, with one head over all rows."""
        super().__init__(backbone, config)
        self.read = self._readout()

    def _readout(self) -> Readout:
        """An empty one, for a head whose rows train together."""
        return Readout(self.backbone.dim, self.backbone.features, self.rows, self.config.shrinkage, heads_apart=False)

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Start over with one head over the classes of all tasks so far."""
        self.images = task.images
        self.restart()
        self.rows.clear()
        for number, classes in enumerate(task.members or (task.classes,)):
            self.rows.add(number, classes)
        device = next(self.parameters()).device
        self.read = self._readout()
        self.read.begin(tuple(range(len(self.rows))))  # the labels of all tasks at once are rows
        self.read.to(device)
        self._look_ahead(batches)

    def _head_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over the scores of classes."""
        logits = self.read.heads.newest(features)
        target, scores = self.read.local(labels), self.rows.class_scores(logits)  # rows, classes
        classes = torch.tensor(self.rows.classes, device=logits.device)
        if not target.is_floating_point():
            return F.cross_entropy(scores, classes[target])
        shares = target.new_zeros(scores.shape).index_add(1, classes, target)  # of mixed images
        present = classes.unique()  # no share of a class without a row, but 0 times its -inf would spoil the sum
        return F.cross_entropy(scores[:, present], shares[:, present])

    def cost(self) -> Cost:
        """As any method's, with every image kept."""
        return replace(super().cost(), images_kept=self.images)
