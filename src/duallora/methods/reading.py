"""Base of the methods that answer through a `Readout`: heads or class Gaussians over the final feature."""

from __future__ import annotations

from typing import ClassVar

from duallora.methods.base import (
    BackboneLike,
    Batches,
    Encoding,
    Method,
    MethodConfig,
    Output,
    State,
    TaskInfo,
    each,
    part,
    prefixed,
)
from duallora.methods.readout import Readout, Sample


class ReadingMethod(Method):
    """A method whose rows are scored by `self.read`; what remains to a subclass is what it adapts and how it trains."""

    readouts: ClassVar[tuple[str, ...]] = ("heads", "gaussian")

    def __init__(self, backbone: BackboneLike, config: MethodConfig, shrinkage: float | str) -> None:
        """Read-out over the backbone's features."""
        super().__init__(backbone, config)
        self.read = Readout(backbone.dim, self.rows, shrinkage)

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Rows, a new head and new Gaussians for the task's classes."""
        self.rows.add(task.index, task.classes)
        self.read.begin(task.classes)

    def end_task(self, batches: Batches) -> None:
        """One pass for the class Gaussians and the limit of what is known."""
        sample = Sample()
        for images, labels in each(batches):
            features = self.encode(images).features
            self.read.collect(features, labels)
            sample.add(features, labels)
        self.read.finish(sample.features, sample.labels)

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Argmax over all heads ("heads"), or linear discriminant scores ("gaussian")."""
        return self.read.output(encoding, readout or self.readout)

    def state(self) -> State:
        """The read-out."""
        return prefixed("read", self.read.state())

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        self.read.load_state(part("read", state))
