"""Metrics against values worked by hand, against each other, and against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.compat import import_torchvision
from duallora.errors import DualLoRAError
from duallora.evaluation import metrics

A = [
    [0.90, None, None],
    [0.60, 0.80, None],
    [0.50, 0.70, 0.95],
]
COUNTS = [100, 50, 50]
LAST_ONLY = [[None] * 3, [None] * 3, [0.5, 0.7, 0.95]]


def test_hand_worked() -> None:
    assert metrics.accuracy_curve(A, COUNTS) == pytest.approx([0.9, (60 + 40) / 150, (50 + 35 + 47.5) / 200])
    assert metrics.accuracy_curve_tasks(A) == pytest.approx([0.9, 0.7, 2.15 / 3])
    assert metrics.a_last(A, COUNTS) == pytest.approx(0.6625)
    assert metrics.a_last_tasks(A) == pytest.approx(2.15 / 3)
    assert metrics.a_avg(A, COUNTS) == pytest.approx((0.9 + 2 / 3 + 0.6625) / 3)
    assert metrics.a_avg_tasks(A) == pytest.approx((0.9 + 0.7 + 2.15 / 3) / 3)
    assert metrics.forgetting_per_task(A) == pytest.approx([0.4, 0.1])
    assert metrics.forgetting(A) == pytest.approx(0.25)
    assert metrics.bwt(A) == pytest.approx(-0.25)
    assert metrics.fwt(A) is None


def test_forgetting_is_from_the_best_and_bwt_from_the_first() -> None:
    rising = [[0.5, None, None], [0.9, 0.6, None], [0.7, 0.8, 0.9]]
    assert metrics.forgetting(rising) == pytest.approx((0.2 + -0.2) / 2)
    assert metrics.bwt(rising) == pytest.approx((0.2 + 0.2) / 2)


def test_full_matrix_has_forward_transfer() -> None:
    full = [[0.9, 0.4, 0.1], [0.8, 0.9, 0.3], [0.7, 0.8, 0.9]]
    assert metrics.fwt(full) == pytest.approx((0.4 + 0.3) / 2)
    assert metrics.fwt(full, baseline=[0.1, 0.1, 0.2]) == pytest.approx((0.3 + 0.1) / 2)
    best_before_it_was_learnt = [[0.9, 0.95, 0.1], [0.8, 0.5, 0.3], [0.9, 0.5, 0.9]]
    assert metrics.forgetting(best_before_it_was_learnt) == pytest.approx((0.0 + 0.45) / 2)


def test_last_row_only() -> None:
    assert metrics.a_last(LAST_ONLY, COUNTS) == pytest.approx(0.6625)
    assert metrics.a_last_tasks(LAST_ONLY) == pytest.approx(2.15 / 3)
    assert metrics.accuracy_curve(LAST_ONLY, COUNTS)[:2] == [None, None]
    assert metrics.forgetting_per_task(LAST_ONLY) == [None, None]
    for undefined in (metrics.a_avg(LAST_ONLY, COUNTS), metrics.a_avg_tasks(LAST_ONLY)):
        assert undefined is None
    for function in (metrics.forgetting, metrics.bwt, metrics.fwt):
        assert function(LAST_ONLY) is None


def test_single_task() -> None:
    assert metrics.a_last([[0.5]], [10]) == metrics.a_avg([[0.5]], [10]) == 0.5
    assert metrics.forgetting([[0.5]]) is None
    assert metrics.bwt([[0.5]]) is None
    assert metrics.fwt([[0.5]]) is None


def test_run_cut_short() -> None:
    assert metrics.a_last(A[:2], COUNTS) == pytest.approx(100 / 150)
    assert metrics.forgetting(A[:2]) == pytest.approx(0.3)
    assert metrics.bwt(A[:2]) == pytest.approx(-0.3)


def test_task_without_test_images_is_left_out() -> None:
    matrix = [[0.9, None, None], [0.6, None, None], [0.5, None, 0.95]]
    counts = [100, 0, 50]
    assert metrics.a_last(matrix, counts) == pytest.approx((50 + 47.5) / 150)
    assert metrics.a_last_tasks(matrix, counts) == pytest.approx((0.5 + 0.95) / 2)
    assert metrics.a_avg(matrix, counts) == pytest.approx((0.9 + 0.6 + 0.65) / 3)
    assert metrics.forgetting(matrix, counts) == pytest.approx(0.4)
    assert metrics.bwt(matrix, counts) == pytest.approx(-0.4)
    assert metrics.a_last_tasks(matrix) is None, "without counts a missing entry is just missing"
    assert metrics.a_last([[None]], [0]) is None


@pytest.mark.parametrize(
    ("matrix", "counts", "expected"),
    [
        ([], [], "empty"),
        ([[]], [], "empty"),
        ([[0.5, 0.5], [0.5]], [1, 1], "row 1"),
        ([[1.5]], [1], r"\[0\]\[0\] is 1.5"),
        ([[math.nan]], [1], "nan"),
        ([[0.1], [0.1]], [1], "2 rows for 1 tasks"),
        ([[0.5, None]], [1], "expected 2 numbers"),
        ([[0.5, None]], [1, -1], "none negative"),
    ],
)
def test_what_is_no_accuracy_matrix(matrix: list[list[float | None]], counts: list[int], expected: str) -> None:
    with pytest.raises(DualLoRAError, match=expected):
        metrics.a_last(matrix, counts)


@st.composite
def lower_triangles(draw: st.DrawFn) -> list[list[float | None]]:
    size = draw(st.integers(2, 7))
    share = st.floats(0, 1)
    return [[draw(share) if j <= i else None for j in range(size)] for i in range(size)]


@settings(max_examples=60, deadline=None)
@given(matrix=lower_triangles(), data=st.data())
def test_laws(matrix: list[list[float | None]], data: st.DataObject) -> None:
    size = len(matrix)
    counts = data.draw(st.lists(st.integers(1, 1000), min_size=size, max_size=size))
    last, average = metrics.a_last(matrix, counts), metrics.a_avg(matrix, counts)
    assert last is not None
    assert average is not None
    entries = [value for row in matrix for value in row if value is not None]
    assert min(entries) - 1e-9 <= last <= max(entries) + 1e-9
    assert min(entries) - 1e-9 <= average <= max(entries) + 1e-9
    assert metrics.a_last(matrix, [7] * size) == pytest.approx(metrics.a_last_tasks(matrix))
    assert metrics.a_avg(matrix, [7] * size) == pytest.approx(metrics.a_avg_tasks(matrix))
    assert metrics.a_last(matrix, [3 * count for count in counts]) == pytest.approx(last)
    backward, lost = metrics.bwt(matrix), metrics.forgetting(matrix)
    assert backward is not None
    assert lost is not None
    assert lost >= -backward - 1e-12, "the best is at least the first"
    assert -1 <= lost <= 1
    still = [[matrix[j][j] if j <= i else None for j in range(size)] for i in range(size)]
    assert metrics.forgetting(still) == pytest.approx(0)
    assert metrics.bwt(still) == pytest.approx(0)


# ---- calibration ----


def test_calibration_by_hand() -> None:
    # Confidence 0.9 (4 images, 3 right) and 0.6 (2 images, 2 right): (4 * |0.75 - 0.9| + 2 * |1 - 0.6|) / 6
    probabilities = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx((0.6 + 0.8) / 6)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("classes", [2, 7])
def test_calibration_agrees_with_torchmetrics(bins: int, classes: int) -> None:
    import_torchvision()  # torchmetrics imports it
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(bins * classes)
    for scale in (0.1, 1.0, 8.0):
        probabilities = (torch.randn(400, classes, generator=generator) * scale).softmax(1)
        labels = torch.randint(classes, (400,), generator=generator)
        expected = functional.multiclass_calibration_error(probabilities, labels, classes, n_bins=bins, norm="l1")
        assert metrics.expected_calibration_error(probabilities, labels, bins) == pytest.approx(
            float(expected), abs=1e-5
        )


def test_calibration_extremes() -> None:
    certain = torch.eye(3)
    assert metrics.expected_calibration_error(certain, torch.tensor([0, 1, 2])) == 0
    assert metrics.expected_calibration_error(certain, torch.tensor([1, 2, 0])) == 1
    half = certain.to(torch.bfloat16)
    assert metrics.expected_calibration_error(half, torch.tensor([0, 1, 2])) == 0


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (torch.ones(1, 1, 3), torch.zeros(1)),
        (torch.empty(0, 3), torch.zeros(0)),
        (torch.tensor([1.5]), torch.zeros(1)),
        (torch.ones(3, 1), torch.zeros(2)),
        (torch.tensor([[2.0, -1.0]]), torch.zeros(1)),
        (torch.tensor([[math.nan, 1.0]]), torch.zeros(1)),
        (torch.tensor([[0.3, 0.3]]), torch.zeros(1)),
    ],
)
def test_calibration_refuses_what_is_no_probability(probabilities: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DualLoRAError, match="calibration needs"):
        metrics.expected_calibration_error(probabilities, labels.long())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(1, 6), bins=st.integers(1, 30))
def test_calibration_laws(seed: int, n: int, classes: int, bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(n, classes, generator=generator).softmax(1)
    labels = torch.randint(classes, (n,), generator=generator)
    error = metrics.expected_calibration_error(probabilities, labels, bins)
    assert 0 <= error <= 1
    confidence, answer = probabilities.max(1)
    assert metrics.expected_calibration_error(confidence, answer == labels, bins) == pytest.approx(error)
    order = torch.randperm(n, generator=generator)
    assert metrics.expected_calibration_error(probabilities[order], labels[order], bins) == pytest.approx(error)
    overall = abs(float((probabilities.argmax(1) == labels).double().mean() - probabilities.double().max(1)[0].mean()))
    assert error >= overall - 1e-9, "bins can only reveal more"
