"""The memory: relevance by hand, posterior, confidence, calibration, gates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.duallora.memory import Bases, calibrate, confidence, gates_of, task_posterior


def bases() -> Bases:
    held = Bases(4)
    held.add(torch.eye(4)[:, :1], 0.5)
    held.add(torch.eye(4)[:, 1:1], 0.0)  # a task that added nothing
    held.add(torch.eye(4)[:, 1:3], 0.25)
    return held


def test_relevance_by_hand() -> None:
    xbar = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 8 / 3], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(bases().relevance(xbar), expected)


def test_relevance_does_not_depend_on_the_length_of_the_feature() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bases().relevance(x), bases().relevance(7 * x))


def test_state_round_trip() -> None:
    held, other = bases(), Bases(4)
    other.load_state(held.state())
    x = torch.randn(3, 4)
    assert torch.equal(held.relevance(x), other.relevance(x))
    assert torch.equal(other.task(2), torch.eye(4)[:, 1:3])


@pytest.mark.parametrize("kind", ["max", "margin", "entropy"])
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.01, 10))
@settings(max_examples=20, deadline=None)
def test_confidence_lies_between_zero_and_one(kind: str, tasks: int, seed: int, temperature: float) -> None:
    evidence = torch.randn(7, tasks, generator=torch.Generator().manual_seed(seed))
    pi = task_posterior(evidence, temperature)
    torch.testing.assert_close(pi.sum(1), torch.ones(7))
    c = confidence(pi, kind)
    assert ((c >= 0) & (c <= 1 + 1e-6)).all()
    sure = confidence(torch.eye(tasks), kind)
    torch.testing.assert_close(sure, torch.ones(tasks))


def test_confidence_by_hand() -> None:
    pi = torch.tensor([[0.5, 0.25, 0.25]])
    assert confidence(pi, "max").item() == 0.5
    assert confidence(pi, "margin").item() == 0.25
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert confidence(pi, "entropy").item() == pytest.approx(1 - entropy / math.log(3))
    assert confidence(torch.ones(2, 1), "margin").tolist() == [1.0, 1.0]


def test_calibration_by_hand_and_off_bit_for_bit() -> None:
    logits, owner = torch.randn(2, 3), torch.tensor([0, 0, 1])
    pi, c = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0.5, 1.0])
    expected = logits + 2 * c[:, None] * torch.log(pi[:, [0, 0, 1]])
    torch.testing.assert_close(calibrate(logits, owner, pi, c, 2.0), expected)
    assert calibrate(logits, owner, pi, c, 0.0) is logits
    assert torch.isfinite(calibrate(logits, owner, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), c, 1.0)).all()


def test_gates_belong_to_the_right_tasks() -> None:
    rho = torch.tensor([[0.2, 3.0]])
    assert gates_of(rho, "basis", "previous").tolist() == [[1.0, pytest.approx(0.2), 1.0]]
    assert gates_of(rho, "task", "previous").tolist() == [[pytest.approx(0.2), 1.0, 1.0]]
    assert gates_of(rho, "basis", "own").tolist() == [[pytest.approx(0.2), 1.0, 1.0]]
    assert gates_of(rho, "basis", "all").tolist() == [[1.0, pytest.approx(0.2), 1.0]]
