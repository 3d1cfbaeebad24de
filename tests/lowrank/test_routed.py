"""The routed update and its orthogonality term against explicit matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duallora.lowrank.routed import Overlap, RoutedLowRank


def made() -> RoutedLowRank:
    update = RoutedLowRank(6, 5, 3)
    for tensor in (update.B, update.R, update.delta):
        torch.nn.init.normal_(tensor)
    return update


def test_the_routing_stands_between_the_factors() -> None:
    update, x = made(), torch.randn(4, 6)
    A, B, R, delta = (t.detach().double().numpy() for t in (update.A, update.B, update.R, update.delta))
    expected = torch.from_numpy(x.double().numpy() @ (B @ (R + delta) @ A).T)
    torch.testing.assert_close(update(x).double(), expected, atol=1e-5, rtol=1e-5)
    before = update.matrix()
    update.end()
    torch.testing.assert_close(update.R.double(), torch.from_numpy(R + delta))
    assert not update.delta.any()
    torch.testing.assert_close(update.matrix(), before)


@pytest.mark.parametrize("form", ["columns", "rows", "update"])
def test_each_form_of_the_term_is_a_squared_frobenius_norm(form: Overlap) -> None:
    update = made()
    A, B, R, delta = (t.detach().double().numpy() for t in (update.A, update.B, update.R, update.delta))
    products = {"columns": R.T @ delta, "rows": R @ delta.T, "update": (B @ R @ A).T @ (B @ delta @ A)}
    assert update.overlap(form).item() == pytest.approx(np.linalg.norm(products[form], "fro") ** 2, rel=1e-4)


def test_factors_train_until_they_have_learned_something() -> None:
    update = RoutedLowRank(6, 5, 3)
    update.begin(std=0.1, factors=False)
    assert torch.equal(update.delta, torch.eye(3)) and update.A.requires_grad
    update.end()  # a task that taught nothing: B is still zero
    update.begin(std=0.1, factors=False)
    assert torch.equal(update.delta, torch.eye(3)) and not update.R.any() and update.B.requires_grad
    torch.nn.init.normal_(update.B)
    update.end()
    update.begin(std=0.0, factors=False)
    assert torch.equal(update.R, torch.eye(3)) and not update.delta.any()
    assert [update.A.requires_grad, update.B.requires_grad, update.delta.requires_grad] == [False, False, True]
    update.begin(std=0.0, factors=True)
    assert update.A.requires_grad
