"""The one loop that trains every method on a task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from duallora.data.batches import Batches
from duallora.data.imageset import ImageSet
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError
from duallora.methods.base import Group, Method, TaskInfo, begin_stages
from duallora.training.device import Session
from duallora.training.mixing import Mixing, Smoothing
from duallora.training.progress import TaskProgress
from duallora.training.settings import TrainingSettings

CHECK_EVERY = 16  # steps between looks at the loss: a look waits for the device


@dataclass
class TaskTiming:
    """Seconds per phase of a task, how many parameters trained, mean loss of the last epoch.

    The loss is None where nothing trained.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    loss: float | None = None


class _Loss(nn.Module):
    """A method's loss as a module's forward pass, which is what Accelerate prepares."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.method.loss(images, labels)


class OnDevice:
    """Batches moved to the device, under the session's precision; re-iterable, reporting progress where wanted."""

    def __init__(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        session: Session,
        told: Callable[[int], None] | None = None,
    ) -> None:
        """Wrap re-iterable batches."""
        self.batches, self.session, self.told = batches, session, told

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass."""
        device = self.session.device
        for images, labels in self.batches:
            with self.session.autocast():
                yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if self.told:
                self.told(len(images))


def learn_task(
    method: Method,
    task: TaskInfo,
    images: ImageSet,
    label_map: Tensor,
    preprocessing: Preprocessing,
    settings: TrainingSettings,
    session: Session,
    *,
    seed: int,
    title: str = "",
    progress: bool = True,
) -> TaskTiming:
    """Take a method through one task: begin, train, end.

    Args:
        method: already on the accelerator's device.
        task: what the method is told.
        images: the task's training images.
        label_map: index into `images.classes` -> index into the learner's classes.
        preprocessing: of the backbone.
        settings: of the loop.
        session: device and precision.
        seed: everything random in the task follows from it alone, so that a resumed run repeats an uninterrupted one.
        title: for the progress line.
        progress: whether to show any.

    Raises:
        DualLoRAError: the loss, or what trained, is not finite; the message says where and what to try.
    """
    timing, clock = TaskTiming(), _Clock()
    still = Batches(
        images,
        preprocessing,
        batch_size=settings.images_per_pass(session.device.type),
        label_map=label_map,
        workers=settings.workers,
    )
    with torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else []):
        torch.manual_seed(seed)
        method.eval()  # adapters have no dropout, and a frozen backbone must not change its behaviour
        method.begin_task(task, OnDevice(still, session))
        timing.seconds["begin"] = clock.lap()
        trained: set[nn.Parameter] = set()
        for stage in begin_stages(method, OnDevice(still, session)):
            parameters = method.trainable()
            trained.update(parameters)
            if not parameters or not settings.epochs:
                continue
            told = f"{title} training" + (f" {stage + 1} of {method.stages}" if method.stages > 1 else "")
            with TaskProgress(told, settings.epochs * len(images), enabled=progress) as bar:
                timing.loss = _train(
                    method, images, label_map, preprocessing, settings, session, seed + stage, task.index, bar
                )
            _must_stay_finite(method, task.index, settings)
        timing.parameters = sum(p.numel() for p in trained)
        timing.seconds["train"] = clock.lap()
        with TaskProgress(f"{title} statistics", len(images), enabled=progress) as bar:
            try:
                method.end_task(OnDevice(still, session, bar.advance))
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise DualLoRAError(
                    f"the features of task {task.index + 1} are no basis for statistics ({error}): training has most "
                    f"likely run away. {_advice(settings)}"
                ) from error
        timing.seconds["statistics"] = clock.lap()
    images.release()  # no later task asks for them: a long stream would hold them all
    return timing


def _train(
    method: Method,
    images: ImageSet,
    label_map: Tensor,
    preprocessing: Preprocessing,
    settings: TrainingSettings,
    session: Session,
    seed: int,
    index: int,
    bar: TaskProgress,
) -> float:
    """All epochs of a task; returns the mean loss of the last one."""
    batches: Batches | _Features = Batches(
        images,
        preprocessing,
        batch_size=settings.batch_size,
        train=True,
        augment=settings.augment,
        smallest_crop=settings.smallest_crop,
        seed=seed,
        workers=settings.workers,
        label_map=label_map,
    )
    if method.cached:
        batches = _Features(method, images, preprocessing, settings, session, label_map, seed)
    steps = settings.epochs * len(batches)
    parameters = method.trainable()
    accelerator = session.accelerator()
    model = accelerator.prepare(_Loss(method))
    optimizer = accelerator.prepare(_optimizer(method.groups(), settings))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, lambda step: _rate(step, steps, settings))
    mixing = None
    if settings.mix != "none" and not method.cached:
        mixing = Mixing(settings.mix, classes=int(label_map.max()) + 1, seed=seed)
    smoothing = Smoothing(settings.label_smoothing, label_map) if settings.label_smoothing else None
    step = 0
    total, seen = torch.zeros((), device=session.device), 0
    for epoch in range(settings.epochs):
        batches.set_epoch(epoch)
        total.zero_()
        seen = 0
        for x, y in OnDevice(batches, session):
            if mixing:
                x, y = mixing(x, y, step)
            if smoothing:
                y = smoothing(y)
            loss = model(x, y)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            method.after_step()
            optimizer.zero_grad()
            schedule.step()
            step += 1
            seen += len(y)
            total += loss.detach().float() * len(y)
            if step % CHECK_EVERY == 0 or step == steps:
                _must_be_finite(total, index, epoch, step, settings)
            bar.advance(len(y), f"epoch {epoch + 1}/{settings.epochs}")
    return float(total) / max(seen, 1)


class _Features:
    """Encoded features of a task in shuffled batches, for methods under whose loss nothing of the network trains."""

    def __init__(
        self,
        method: Method,
        images: ImageSet,
        preprocessing: Preprocessing,
        settings: TrainingSettings,
        session: Session,
        label_map: Tensor,
        seed: int,
    ) -> None:
        still = Batches(
            images,
            preprocessing,
            batch_size=settings.images_per_pass(session.device.type),
            label_map=label_map,
            workers=settings.workers,
        )
        with torch.no_grad():
            pairs = [(method.encode(x).features.cpu(), y.cpu()) for x, y in OnDevice(still, session)]
        self.x, self.y = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
        self.size, self.seed, self.epoch = settings.batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.y) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(self.seed * 1009 + self.epoch))
        for rows in order.split(self.size):
            yield self.x[rows], self.y[rows]


def _optimizer(groups: list[Group], settings: TrainingSettings) -> torch.optim.Optimizer:
    parameters = [{"params": g.parameters, "lr": g.rate * settings.learning_rate} for g in groups if g.parameters]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Linear rise over the first `warmup` of the steps, then a half cosine to zero, or the peak rate throughout."""
    rising = max(int(steps * settings.warmup), 1)
    if step < rising:
        return (step + 1) / rising
    if settings.schedule == "constant":
        return 1.0
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(steps - rising, 1))


def _must_be_finite(total: Tensor, task: int, epoch: int, step: int, settings: TrainingSettings) -> None:
    if not torch.isfinite(total):
        raise DualLoRAError(
            f"the loss is not finite (task {task + 1}, epoch {epoch + 1}, step {step}). {_advice(settings)}"
        )


def _must_stay_finite(method: Method, task: int, settings: TrainingSettings) -> None:
    """After the last step, whose outcome no loss tells any more."""
    if not all(torch.isfinite(parameter).all() for parameter in method.trainable()):
        raise DualLoRAError(f"what task {task + 1} trained is not finite. {_advice(settings)}")


def _advice(settings: TrainingSettings) -> str:
    return (
        f"Lower the rate, e.g. --set training.learning_rate={settings.learning_rate / 10:g}, or compute in "
        "--set training.precision=float32"
    )


class _Clock:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def lap(self) -> float:
        before, self.at = self.at, time.perf_counter()
        return self.at - before
