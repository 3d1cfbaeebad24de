"""One pass over the test images of all tasks so far, from which every figure of a step follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from duallora.evaluation.metrics import expected_calibration_error
from duallora.methods.base import Method


@dataclass(frozen=True)
class StepScores:
    """Figures of one read-out after one task.

    Attributes:
        accuracy: per task, share of its test images answered rightly among all classes so far; None without any. One
            more than tasks were learned where the next one was tried ahead.
        task_il: the same with the true task given.
        task_id: share of all test images whose task is predicted rightly; None with one task.
        calibration: expected calibration error of the class probabilities; None without any image.
    """

    accuracy: list[float | None]
    task_il: list[float | None]
    task_id: float | None
    calibration: float | None

    def without_tasks(self) -> StepScores:
        """The same without figures that ask of which task an image is, for test images that are of none."""
        return replace(self, task_il=[None] * len(self.task_il), task_id=None)


def predicted_tasks(method: Method, rows: Tensor, tasks: Tensor | None) -> Tensor:
    """The task of each image (b,): the method's own prediction, else that of the best row."""
    return (tasks if tasks is not None else method.rows.task_scores(rows)).argmax(1)


@torch.no_grad()
def score_step(
    method: Method,
    tests: Sequence[Iterable[tuple[Tensor, Tensor]]],
    readouts: Sequence[str],
    ahead: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> dict[str, StepScores]:
    """Evaluate a method on the test batches of every task so far, one pass through the network for all read-outs.

    Args:
        method: after its last `end_task`.
        tests: batches of each task in order, labels as indices into the learner's classes.
        readouts: which of `method.readouts`.
        ahead: batches of the next task, where its classes are known already: what forward transfer needs.
    """
    gathered: dict[str, list[list[Tensor]]] = {r: [] for r in readouts}
    for task, batches in enumerate(tests):
        parts: dict[str, list[Tensor]] = {r: [] for r in readouts}
        for images, labels in batches:
            encoding = method.encode_for(images, readouts)
            told = method.encode_given(images, task)  # one pass more, where the task chooses the network
            for readout in readouts:
                output = method.decode(encoding, readout)
                scores = method.rows.class_scores(output.rows.float())
                confidence, answer = torch.softmax(scores, 1).max(1)
                informed = output if told is None else method.decode(told, readout)
                known = informed.rows.masked_fill(~method.rows.of_task(task).to(output.rows.device), -torch.inf)
                given = torch.tensor(method.rows.classes, device=labels.device)[known.argmax(1)]
                guess = predicted_tasks(method, output.rows, output.tasks)
                facts = [answer == labels, given == labels, guess == task, confidence]
                parts[readout].append(torch.stack([f.float() for f in facts]).cpu())
        for readout in readouts:
            gathered[readout].append(list(torch.cat([torch.zeros(4, 0), *parts[readout]], 1)))
    found = {readout: _summary(tasks) for readout, tasks in gathered.items()}
    for readout, share in (_tried(method, ahead, readouts) if ahead is not None else {}).items():
        found[readout].accuracy.append(share)
    return found


def _tried(
    method: Method, batches: Iterable[tuple[Tensor, Tensor]], readouts: Sequence[str]
) -> dict[str, float | None]:
    """Share of right answers to images of a task that is yet to come."""
    right: dict[str, list[Tensor]] = {r: [torch.zeros(0)] for r in readouts}
    for images, labels in batches:
        encoding = method.encode_for(images, readouts)
        for readout in readouts:
            answer = method.rows.class_scores(method.decode(encoding, readout).rows.float()).argmax(1)
            right[readout].append((answer == labels).float().cpu())
    return {readout: _share(torch.cat(found)) for readout, found in right.items()}


def _summary(tasks: list[list[Tensor]]) -> StepScores:
    """From (right, right with task given, task right, confidence) of each task's images."""
    right, confidence = (torch.cat([t[i] for t in tasks]) for i in (0, 3))
    return StepScores(
        accuracy=[_share(t[0]) for t in tasks],
        task_il=[_share(t[1]) for t in tasks],
        task_id=_share(torch.cat([t[2] for t in tasks])) if len(tasks) > 1 else None,
        calibration=expected_calibration_error(confidence, right) if len(right) else None,
    )


def _share(facts: Tensor) -> float | None:
    return float(facts.mean()) if len(facts) else None


@dataclass(frozen=True)
class ImageScores:
    """Figures of the configured read-out on labelled images of any classes."""

    accuracy: float
    per_class: dict[int, float]
    task_il: float | None
    task_id: float | None
    calibration: float


@torch.no_grad()
def score_images(method: Method, batches: Iterable[tuple[Tensor, Tensor]]) -> ImageScores:
    """Evaluate on images whose task follows from their class.

    Where a class of theirs has several tasks, task figures are None.
    """
    members = method.rows.members
    homes = [[t for t, held in enumerate(members) if c in held] for c in range(method.rows.class_count)]
    masks = torch.stack([method.rows.of_task(t) for t in range(len(members))])
    parts: list[Tensor] = []
    for images, labels in batches:
        output = method(images)
        scores = method.rows.class_scores(output.rows.float())
        confidence, answer = torch.softmax(scores, 1).max(1)
        task = torch.tensor([homes[int(c)][0] for c in labels])
        rows = _task_given(method, images, task, output.rows.cpu())
        known = rows.masked_fill(~masks[task], -torch.inf)
        given = torch.tensor(method.rows.classes)[known.argmax(1)]
        guess = predicted_tasks(method, output.rows, output.tasks).cpu()
        y = labels.cpu()
        parts.append(
            torch.stack([t.float() for t in (answer.cpu() == y, given == y, guess == task, confidence.cpu(), y)])
        )
    right, given_right, task_right, sure, y = torch.cat(parts, 1)
    unique = all(len(homes[int(c)]) == 1 for c in y.unique())
    return ImageScores(
        accuracy=float(right.mean()),
        per_class={int(c): float(right[y == c].mean()) for c in y.unique()},
        task_il=float(given_right.mean()) if unique else None,
        task_id=float(task_right.mean()) if unique and len(members) > 1 else None,
        calibration=float(expected_calibration_error(sure, right)),
    )


def _task_given(method: Method, images: Tensor, task: Tensor, rows: Tensor) -> Tensor:
    """Rows (b, R) of images whose tasks (b,) are told: other than those given where the task chooses the network."""
    rows = rows.clone()
    for t in task.unique().tolist():
        of_task = task == t
        told = method.encode_given(images[of_task.to(images.device)], t)
        if told is not None:
            rows[of_task] = method.decode(told).rows.float().cpu()
    return rows
