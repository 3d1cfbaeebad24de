"""The whole contract between a method and the rest of the library.

A method sees images, labels and what task they belong to; never a loader, an optimiser, a device wrapper or a file.
Life of a method: for each task `begin_task`; if anything trains, for each of its `stages` `begin_stage`, then many
`loss` and `after_step`; then `end_task`;
between tasks `encode` and `decode`; `state` and `load_state` carry it over a save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank.saved import REMEDY, saved_tensor
from duallora.methods.rows import Rows

State = dict[str, Tensor]


class Batches(Protocol):
    """Images of a task in evaluation form; each iteration is one pass: ((b, 3, S, S) float, (b,) class indices)."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class BackboneLike(Protocol):
    """What a method uses of a backbone."""

    dim: int  # of a token
    features: int  # per image; the first `dim` are the network's own
    depth: int
    has_class_token: bool

    @property
    def attention(self) -> list[nn.Module]:
        """The attention module of each block."""

    def __call__(self, images: Tensor, levels: bool = True) -> Tensor:
        """Features of images: (b, 3, S, S) -> (b, D), or (b, d) without levels."""


Shrinkage = Annotated[float, Field(gt=0, le=1)] | Literal["oas"]
"""Regularisation of a covariance; see `duallora.methods.gaussian.ClassGaussians`. Without any it may be singular."""


class MethodConfig(BaseModel):
    """Options of a method: typed and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def idle(self) -> frozenset[str]:
        """Names of options that make no difference as the others are: runs that differ in them alone are the same."""
        return frozenset()


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of a task.

    Attributes:
        index: 0, 1, ... in order of arrival.
        classes: indices into the learner's list of classes; some may have been seen in an earlier task.
        images: number of training images.
        members: for a cumulative method, the classes of each task so far, this one included; the labels of its batches
            count through them, so that a class has one in each task that holds it.
    """

    index: int
    classes: tuple[int, ...]
    images: int
    members: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Encoding:
    """What one pass through the network yields for a batch.

    Attributes:
        features: (b, D) features of the backbone, float32.
        evidence: (b, T) per-task evidence gathered on the way, or None.
        logits: (b, R) of heads that read other features than these, or None.
    """

    features: Tensor
    evidence: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """Scores of a batch.

    Attributes:
        rows: (b, R) score of each row, comparable over rows; a row is one class of one task.
        tasks: (b, T) log-scores of the tasks, where the method predicts the task by itself.
        measure: computes `distance`; figures of accuracy never ask for it, and it is not free.
    """

    rows: Tensor
    tasks: Tensor | None = None
    measure: Callable[[], Tensor | None] | None = None

    @property
    def distance(self) -> Tensor | None:
        """(b,) how far each image is from anything learned; 1 is the limit of what counts as known."""
        return None if self.measure is None else self.measure()


@dataclass(frozen=True)
class Cost:
    """What a method costs after the tasks so far.

    Attributes:
        bytes_kept: bytes that must be stored beside the backbone to go on learning and predicting.
        passes_per_image: forward passes of the backbone per predicted image.
        images_kept: training images stored.
    """

    bytes_kept: int
    passes_per_image: float = 1.0
    images_kept: int = 0


@dataclass
class TaskLog:
    """Facts about the last task that a method wants on record (capacity, warnings)."""

    capacity: list[float] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        parameters: what is updated.
        rate: factor of the training settings' learning rate.
    """

    parameters: list[nn.Parameter]
    rate: float = 1.0


class Method(nn.Module, ABC):
    """Base of all methods; `rows` says which class of which task each output stands for."""

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    recommended: ClassVar[Mapping[str, object]] = {}  # fields of TrainingSettings in which this method does best
    readouts: ClassVar[tuple[str, ...]] = ("default",)
    cumulative: ClassVar[bool] = False  # True: each task brings all images so far (upper bound only)
    frozen: ClassVar[bool] = True  # False: the backbone's own weights train (full fine-tuning)
    cached: ClassVar[bool] = False  # True: `loss` takes encoded features, since nothing below them trains

    def __init__(self, backbone: BackboneLike, config: MethodConfig) -> None:
        """Attach to a backbone, which serves this method alone from here on."""
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.rows = Rows()
        self.log = TaskLog()

    @abstractmethod
    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Prepare for a task; iterating `batches` costs one pass over its images."""

    def trainable(self) -> list[nn.Parameter]:
        """What the optimiser updates in this task; empty where nothing trains."""
        return [p for p in self.parameters() if p.requires_grad]

    def groups(self) -> list[Group]:
        """`trainable`, split by learning rate; one group unless a method says otherwise."""
        return [Group(self.trainable())]

    @property
    def stages(self) -> int:
        """How many times the loop trains on the task, each time for all epochs with an optimiser of its own."""
        return 1

    def begin_stage(self, stage: int, batches: Batches) -> None:
        """Called before each stage, 0 to `stages` - 1; what is `trainable` may change, and so may `stages`.

        Iterating `batches` costs one pass over the task's images.
        """

    def after_step(self) -> None:
        """Called after every update of the parameters (proximal steps, projections)."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Training loss of a batch of the task.

        Args:
            images: (b, 3, S, S), or features (b, D) if `cached`.
            labels: class indices (b,) int64; or, of blended images, the shares of the learner's classes (b, C) float32.

        Raises:
            RuntimeError: `trainable` is empty, as for methods that only gather statistics; the loop never asks those.
        """
        raise RuntimeError(f"'{self.name}' has no loss: nothing of it trains, it learns in end_task alone")

    @abstractmethod
    def end_task(self, batches: Batches) -> None:
        """Collect what must be remembered; iterating `batches` costs one pass over the task's images."""

    def encode(self, images: Tensor) -> Encoding:
        """One pass through the network: (b, 3, S, S) -> features and task evidence."""
        return Encoding(self.backbone(images).float())

    def encode_given(self, images: Tensor, task: int) -> Encoding | None:
        """An encoding that uses the true task of the images; None where `encode_for` would be the same."""
        return None

    def encode_for(self, images: Tensor, readouts: Iterable[str]) -> Encoding:
        """An encoding from which all of the given read-outs can be decoded."""
        return self.encode(images)

    @abstractmethod
    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Scores from an encoding, by the configured read-out or another of `readouts`."""

    @property
    def readout(self) -> str:
        """The read-out that predictions use."""
        return str(getattr(self.config, "readout", self.readouts[0]))

    def forward(self, images: Tensor) -> Output:
        """encode, then decode."""
        return self.decode(self.encode(images))

    @abstractmethod
    def state(self) -> State:
        """Everything learned, as named tensors; with the backbone and the config it is the whole method."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Restore `state()` into a fresh method on the same backbone; `restore` checks what is given, too."""

    def restore(self, state: State) -> None:
        """`load_state` of what may not be a state of this method.

        Raises:
            DualLoRAError: a tensor is missing, unexpected, or has another shape; or the method has learned already, and
                would be of both.
        """
        if len(self.rows):
            raise DualLoRAError("this method has learned already; restore the state into a fresh one")
        try:
            self.load_state(state)
        except DualLoRAError:
            raise
        except Exception as error:  # of whatever kind comes of tensors that are none of ours
            raise DualLoRAError(f"the saved state does not fit ({type(error).__name__}: {error}); {REMEDY}") from error
        held = self.state()
        for key, tensor in held.items():
            saved_tensor(state, key, tensor.shape)
        if strange := sorted(state.keys() - held.keys()):
            raise DualLoRAError(f"the saved state holds '{strange[0]}', which this method does not know; {REMEDY}")

    def cost(self) -> Cost:
        """Measured from the state itself."""
        kept = sum(t.numel() * t.element_size() for t in self.state().values())
        return Cost(kept)

    def displayed(self, readout: str | None = None) -> str:
        """The name in tables: the read-out is always told where there is a choice."""
        chosen = readout or self.readout
        return self.name if chosen == self.readouts[0] else f"{self.name}+{chosen}"


def prefixed(name: str, state: State) -> State:
    """The state of a part under its name: {"A": t} -> {"name.A": t}."""
    return {f"{name}.{key}": value for key, value in state.items()}


def part(name: str, state: State) -> State:
    """The reverse of `prefixed`."""
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}


def each(batches: Batches) -> Iterable[tuple[Tensor, Tensor]]:
    """Iterate without gradients, so that no method can forget to."""
    with torch.no_grad():
        yield from batches


def begin_stages(method: Method, batches: Batches) -> Iterator[int]:
    """Begin one stage of the task after the other, each when the one before has trained; yields their numbers.

    A stage may show that another is not needed, so their number is asked for anew each time.
    """
    stage = 0
    while stage < method.stages:
        method.begin_stage(stage, batches)
        yield stage
        stage += 1
