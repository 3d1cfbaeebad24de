"""Nearest neighbours and linear probe against cases done by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from duallora.backbone.quality import knn_accuracy, linear_probe_accuracy
from duallora.errors import DualLoRAError


def clouds(n: int, classes: int, d: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (n,), generator=g)
    return centres[y] + spread * torch.randn(n, d, generator=g), y


@pytest.mark.parametrize(("k", "share"), [(1, 1.0), (3, 0.0)])
def test_votes_by_hand(k: int, share: float) -> None:
    """The nearest is of class 0, the next two of class 1: one vote each, so k decides."""
    angles = torch.tensor([0.1, 0.2, 0.3, 2.0])
    x = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [0.1], [1.0]])
    y = torch.tensor([0, 1, 1, 0])
    query = torch.tensor([[3.0, 0.0]])
    assert knn_accuracy(x, y, query, torch.tensor([0]), k=k, temperature=None) == share


def test_a_much_nearer_neighbour_outvotes_two_farther_ones() -> None:
    angles = torch.tensor([0.0, 0.6, 0.6])
    x, y = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 1, 1])
    query, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    # exp((cos 0.6 - 1) / 0.07) = 0.082 each, against 1
    assert knn_accuracy(x, y, query, label, k=3) == 1.0
    assert knn_accuracy(x, y, query, label, k=3, temperature=None) == 0.0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([None, 0.07, 0.5]))
def test_as_scikit_learn_does_it(seed: int, k: int, temperature: float | None) -> None:
    x, y = clouds(60, 4, 6, 1.0, seed)
    test_x, test_y = clouds(33, 4, 6, 1.0, seed + 1)
    weights = "uniform" if temperature is None else lambda distance: np.exp(-distance / temperature)
    rival = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(x.double().numpy(), y.numpy())
    expected = rival.score(test_x.double().numpy(), test_y.numpy())
    ours = knn_accuracy(x, y, test_x, test_y, k, temperature=temperature)
    assert ours == pytest.approx(expected, abs=1e-9)


def test_more_neighbours_than_images_and_more_images_than_one_chunk() -> None:
    x, y = clouds(5, 2, 3, 0.1, 0)
    test_x, test_y = clouds(2500, 2, 3, 0.1, 1)
    share = knn_accuracy(x, y, test_x, test_y, k=20)
    parts = [knn_accuracy(x, y, test_x[i : i + 500], test_y[i : i + 500], k=20) for i in range(0, 2500, 500)]
    assert share == pytest.approx(sum(parts) / 5)


def test_a_probe_finds_what_is_linear_and_only_that() -> None:
    x, y = clouds(200, 3, 8, 0.3, 0)
    test_x, test_y = clouds(100, 3, 8, 0.3, 1)
    share = linear_probe_accuracy(x, y, test_x, test_y)
    assert share > 0.95
    assert linear_probe_accuracy(x * 1000 + 7, y, test_x * 1000 + 7, test_y) == share  # standardised
    xor = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert linear_probe_accuracy(xor, torch.tensor([0, 1, 1, 0]), xor, torch.tensor([0, 1, 1, 0])) <= 0.75


def test_a_probe_is_deterministic_and_leaves_the_generators_alone() -> None:
    x, y = clouds(80, 3, 8, 2.0, 0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    shares = {linear_probe_accuracy(x, y, x, y) for _ in range(3)}
    assert len(shares) == 1
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_the_probes_regularisation_does_not_depend_on_the_number_of_images() -> None:
    x, y = clouds(60, 3, 30, 2.0, 0)
    test_x, test_y = clouds(300, 3, 30, 2.0, 1)
    once = linear_probe_accuracy(x, y, test_x, test_y, weight_decay=0.1)
    assert linear_probe_accuracy(x.repeat(4, 1), y.repeat(4), test_x, test_y, weight_decay=0.1) == once
    assert linear_probe_accuracy(x, y, test_x, test_y, weight_decay=1e-6) != once


@pytest.mark.parametrize("measure", [knn_accuracy, linear_probe_accuracy])
def test_what_does_not_fit_is_named(measure: object) -> None:
    x, y = clouds(6, 2, 3, 1.0, 0)
    for bad in (
        (x, y[:3], x, y),
        (x, y, x[:0], y[:0]),
        (x, y, x[:, :2], y),
        (x[:, 0], y, x, y),
    ):
        with pytest.raises(DualLoRAError, match="features"):
            measure(*bad)  # type: ignore[operator]


def test_limits() -> None:
    x, y = clouds(6, 2, 3, 1.0, 0)
    with pytest.raises(DualLoRAError, match="k is 0"):
        knn_accuracy(x, y, x, y, k=0)
    with pytest.raises(DualLoRAError, match="two classes"):
        linear_probe_accuracy(x, torch.zeros(6, dtype=torch.int64), x, y)
