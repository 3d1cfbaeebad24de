"""Pure functions on an accuracy matrix.

`matrix[i][j]` is the accuracy (0 to 1) on the test images of task j after learning task i, None where it was not
measured; `counts[j]` is the number of test images of task j. Rows may be all None (a method trained only once, at the
end) and there may be fewer rows than tasks (a run cut short). What is undefined is None, never 0. A task without test
images (counts[j] is 0) is left out of every mean. Formulas and sources: docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from duallora.errors import DualLoRAError

if TYPE_CHECKING:
    from torch import Tensor

Row = Sequence[float | None]
Matrix = Sequence[Row]


def check_matrix(matrix: Matrix, counts: Sequence[int] | None = None) -> None:
    """Raise DualLoRAError, saying what is wrong, unless every function here can work with these arguments."""
    if not matrix or not matrix[0]:
        raise DualLoRAError("the accuracy matrix is empty; it needs one row per task learnt and one column per task")
    tasks = len(matrix[0])
    for i, row in enumerate(matrix):
        if len(row) != tasks:
            raise DualLoRAError(f"row {i} of the accuracy matrix has {len(row)} entries and row 0 has {tasks}")
        for j, value in enumerate(row):
            if value is not None and not 0 <= value <= 1:  # False for NaN too
                raise DualLoRAError(f"accuracy [{i}][{j}] is {value}; expected 0 to 1, or None where not measured")
    if len(matrix) > tasks:
        raise DualLoRAError(f"the accuracy matrix has {len(matrix)} rows for {tasks} tasks; at most one row per task")
    if counts is not None and (len(counts) != tasks or min(counts) < 0):
        raise DualLoRAError(f"counts is {list(counts)}; expected {tasks} numbers of test images, none negative")


def accuracy_curve(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
    """Accuracy over all test images of the tasks seen so far, after each task.

    >>> accuracy_curve([[0.9, None], [0.5, 0.8]], counts=[100, 300])
    [0.9, 0.725]
    """
    check_matrix(matrix, counts)
    return [_mean(row[: i + 1], counts[: i + 1]) for i, row in enumerate(matrix)]


def accuracy_curve_tasks(matrix: Matrix, counts: Sequence[int] | None = None) -> list[float | None]:
    """Mean over the tasks seen so far of the accuracy on each, after each task; every task weighs the same."""
    check_matrix(matrix, counts)
    weights = _present(matrix, counts)
    return [_mean(row[: i + 1], weights[: i + 1]) for i, row in enumerate(matrix)]


def a_last(matrix: Matrix, counts: Sequence[int]) -> float | None:
    """Accuracy over all test images seen, after the last task (`accuracy_curve`'s last value).

    >>> a_last([[None, None], [0.5, 0.8]], counts=[100, 300])
    0.725
    """
    return accuracy_curve(matrix, counts)[-1]


def a_last_tasks(matrix: Matrix, counts: Sequence[int] | None = None) -> float | None:
    """Mean accuracy over tasks after the last one (ACC of Lopez-Paz & Ranzato 2017)."""
    return accuracy_curve_tasks(matrix, counts)[-1]


def a_avg(matrix: Matrix, counts: Sequence[int]) -> float | None:
    """Mean of `accuracy_curve`: average incremental accuracy; None unless it was measured after every task."""
    return _plain_mean(accuracy_curve(matrix, counts))


def a_avg_tasks(matrix: Matrix, counts: Sequence[int] | None = None) -> float | None:
    """Mean of `accuracy_curve_tasks`; None unless it was measured after every task."""
    return _plain_mean(accuracy_curve_tasks(matrix, counts))


def forgetting_per_task(matrix: Matrix, counts: Sequence[int] | None = None) -> list[float | None]:
    """For each task before the last learnt: its best accuracy before the last step, less that after it.

    Negative where the task is now better than ever. None where no earlier accuracy was measured.
    """
    check_matrix(matrix, counts)
    last = matrix[-1]
    losses: list[float | None] = []
    for j in range(len(matrix) - 1):
        now, earlier = last[j], [value for row in matrix[:-1] if (value := row[j]) is not None]
        losses.append(None if now is None or not earlier else max(earlier) - now)
    return losses


def forgetting(matrix: Matrix, counts: Sequence[int] | None = None) -> float | None:
    """Average forgetting after the last task (Chaudhry et al. 2018, equations 2 and 3), -1 to 1, lower is better.

    >>> forgetting([[0.75, None], [0.5, 0.8]])
    0.25
    """
    losses = forgetting_per_task(matrix, counts)
    return _mean(losses, _present(matrix, counts)[: len(losses)])


def bwt(matrix: Matrix, counts: Sequence[int] | None = None) -> float | None:
    """Backward transfer (Lopez-Paz & Ranzato 2017, equation 3): change since each task was learnt; below 0 is loss.

    >>> bwt([[0.75, None], [0.5, 0.8]])
    -0.25
    """
    check_matrix(matrix, counts)
    last, steps = matrix[-1], len(matrix) - 1
    return _mean([_less(last[j], matrix[j][j]) for j in range(steps)], _present(matrix, counts)[:steps])


def fwt(matrix: Matrix, baseline: Sequence[float] | None = None, counts: Sequence[int] | None = None) -> float | None:
    """Forward transfer (Lopez-Paz & Ranzato 2017, equation 4): accuracy on each task just before it is learnt.

    Needs entries above the diagonal, which exist where classes are known before their task (domain-incremental).

    Args:
        matrix: the accuracy matrix.
        baseline: accuracy per task of the untrained model, subtracted as in the paper; without it nothing is.
        counts: test images per task.

    Raises:
        DualLoRAError: as `check_matrix`, or the baseline has another number of tasks.

    >>> fwt([[0.9, 0.5], [0.8, 0.9]], baseline=[0.1, 0.25])
    0.25
    """
    check_matrix(matrix, counts)
    tasks = len(matrix[0])
    if baseline is not None and len(baseline) != tasks:
        raise DualLoRAError(f"the baseline has {len(baseline)} accuracies for {tasks} tasks; give one per task")
    reference = baseline or [0.0] * tasks
    before = [_less(matrix[j - 1][j], reference[j]) for j in range(1, len(matrix))]
    return _mean(before, _present(matrix, counts)[1 : len(matrix)])


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3) of the most probable class.

    Args:
        probabilities: (n, classes), rows that sum to 1; or (n,), the probability of the class that was answered.
        labels: (n,) integers, indices into the classes; with (n,) probabilities whether the answer was right (0 or 1).
        bins: equal-width bins of confidence, open at the left and closed at the right.

    Returns:
        Mean over images of |accuracy - confidence| of their bin: 0 is perfect, 1 is worst.

    Raises:
        DualLoRAError: no images, shapes that do not fit, or what are no probabilities (logits, NaN).

    >>> import torch
    >>> sure = torch.tensor([[0.75, 0.25]] * 4)
    >>> expected_calibration_error(sure, torch.tensor([0, 0, 0, 1]))  # right in 3 of 4, and says so
    0.0
    """
    import torch

    if probabilities.ndim not in (1, 2) or labels.shape != probabilities.shape[:1] or len(labels) == 0 or bins < 1:
        shapes = f"{tuple(probabilities.shape)}, {tuple(labels.shape)} and {bins}"
        raise DualLoRAError(f"calibration needs (n, classes) or (n,) probabilities, (n,) labels and bins; got {shapes}")
    values = probabilities.detach().cpu().double()  # MPS has no float64
    slack = 2e-2  # bfloat16 softmax
    in_range = bool(((values >= -slack) & (values <= 1 + slack)).all())
    if not in_range or (values.ndim == 2 and float((values.sum(1) - 1).abs().max()) > slack):
        raise DualLoRAError("calibration needs probabilities, in 0 to 1 and of sum 1 per image; apply softmax first")
    if values.ndim == 2:
        confidence, answer = values.max(1)
        correct = (answer == labels.to(answer.device)).double()
    else:
        confidence, correct = values, labels.to(values.device).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=values.device)
    index = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=values.device).index_add_(0, index, correct - confidence)
    return float(gap.abs().sum() / len(labels))


def _mean(values: Row, weights: Iterable[int]) -> float | None:
    """Weighted mean over the entries of weight above 0; None if one of those is None, or if there are none."""
    kept = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight > 0]
    if not kept:
        return None
    terms = [value * weight for value, weight in kept if value is not None]
    return math.fsum(terms) / sum(weight for _, weight in kept) if len(terms) == len(kept) else None


def _plain_mean(values: Row) -> float | None:
    return _mean(values, [1] * len(values))


def _present(matrix: Matrix, counts: Sequence[int] | None) -> list[int]:
    """1 for each task that has test images, 0 for the others."""
    return [1] * len(matrix[0]) if counts is None else [int(count > 0) for count in counts]


def _less(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference
