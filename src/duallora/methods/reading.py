"""Base of the methods that answer through a `Readout`: heads or class Gaussians over the features."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from duallora.methods.base import (
    BackboneLike,
    Batches,
    Encoding,
    Method,
    MethodConfig,
    Output,
    State,
    TaskInfo,
    TaskLog,
    each,
    part,
    prefixed,
)
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.readout import Readout, Sample


class ReadingMethod(Method):
    """A method whose rows are scored by `self.read`; what remains to a subclass is what it adapts and how it trains."""

    readouts: ClassVar[tuple[str, ...]] = ("heads", "tasks", "gaussian", "quadratic", "product")

    def __init__(self, backbone: BackboneLike, config: MethodConfig, shrinkage: float | str) -> None:
        """Read-out over the backbone's features."""
        super().__init__(backbone, config)
        wanted = "tasks" in self.readouts
        self.read = Readout(backbone.dim, backbone.features, self.rows, shrinkage, tasks=wanted)

    @property
    def starts_as_discriminant(self) -> bool:
        """Whether the newest head starts as the discriminant of the features as they are before training."""
        return getattr(self.config, "head_init", "random") == "gaussian"

    @property
    def looks_ahead(self) -> bool:
        """Whether `begin_task` takes a pass over the task's images before anything trains."""
        return self.starts_as_discriminant

    def saw(self, features: Tensor) -> None:
        """Called with the features of each batch of that pass."""

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Rows, a new head and new Gaussians for the task's classes; the head starts as the config says."""
        self.log = TaskLog()
        self.rows.add(task.index, task.classes)
        self.read.begin(task.classes)
        self.read.to(next(self.parameters()).device)
        self._look_ahead(batches)

    def _look_ahead(self, batches: Batches) -> None:
        """The pass before training, for a head that starts from it."""
        if not self.looks_ahead:
            return
        start = ClassGaussians(self.backbone.dim, self.read.gaussians.shrinkage)
        start.grow(len(self.read.heads.biases[-1]))
        for images, labels in each(batches):
            features = self.encode(images).features
            start.update(features[:, : self.backbone.dim], self.read.local(labels))
            self.saw(features)
        if self.starts_as_discriminant:
            self.read.heads.start(*start.linear())

    def end_task(self, batches: Batches) -> None:
        """One pass for the class Gaussians and the limit of what is known."""
        sample = Sample()
        for images, labels in each(batches):
            features = self.encode(images).features
            self.read.collect(features, labels)
            sample.add(features, labels)
        self.read.finish(sample.features, sample.labels)

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """By one of the read-outs; see `Readout.scores`."""
        return self.read.output(encoding, readout or self.readout)

    def state(self) -> State:
        """The read-out."""
        return prefixed("read", self.read.state())

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        self.read.load_state(part("read", state))
