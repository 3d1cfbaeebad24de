"""Folded updates: the weight is the sum, the factors bring it back bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from duallora.errors import DualLoRAError
from duallora.lowrank.folded import Folded


def linear() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(4, 9).requires_grad_(False)


def taught() -> tuple[Folded, torch.Tensor]:
    folded = Folded(linear(), 3, 2)
    expected = folded.linear[0].weight.double().clone()
    for rank in (2, 0, 3):
        A, B = torch.randn(rank, 4), torch.randn(2, rank)
        folded.add(A, B)
        expected[3:5] += B.double() @ A.double()
    return folded, expected


def test_the_weight_is_the_sum_on_its_outputs_only() -> None:
    folded, expected = taught()
    torch.testing.assert_close(folded.linear[0].weight.double(), expected, atol=1e-6, rtol=1e-6)
    assert folded.ranks == [2, 0, 3]
    assert folded.A.shape == (5, 4) and folded.B.shape == (2, 5)


def test_a_saved_state_gives_the_same_weight() -> None:
    folded, _ = taught()
    other = Folded(linear(), 3, 2)
    other.load_state({k: v.clone() for k, v in folded.state().items()})
    assert torch.equal(other.linear[0].weight, folded.linear[0].weight)
    assert all(torch.equal(other.state()[k], v) for k, v in folded.state().items())
    empty = Folded(linear(), 3, 2)
    empty.load_state(Folded(linear(), 3, 2).state())
    assert torch.equal(empty.linear[0].weight, linear().weight)


def test_what_does_not_fit_is_named() -> None:
    folded, _ = taught()
    with pytest.raises(DualLoRAError, match="3 updates are folded already"):
        folded.load_state(folded.state())
    with pytest.raises(DualLoRAError, match="B: missing"):
        Folded(linear(), 3, 2).load_state({k: v for k, v in folded.state().items() if k != "B"})
    with pytest.raises(DualLoRAError, match=r"B: shape \(2, 5\), expected shape \(3, 5\)"):
        Folded(linear(), 3, 3).load_state(folded.state())
