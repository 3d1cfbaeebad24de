"""Carrying statistics along with drift."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.duallora.carry import Carry


def solved(X: torch.Tensor, Y: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    carry = Carry(ridge)
    for x in X.split(7):
        carry.before(x)
    for y in Y.split(7):
        carry.after(y)
    return carry.solve()


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_an_affine_change_is_found(seed: int, d: int) -> None:
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(200, d, generator=g)
    W, o = torch.eye(d) + 0.3 * torch.randn(d, d, generator=g), torch.randn(d, generator=g)
    found, offset = solved(X, X @ W + o, ridge=1e-9)
    torch.testing.assert_close(found.float(), W, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(offset.float(), o, atol=1e-3, rtol=1e-3)


def test_no_change_is_the_identity_even_with_fewer_images_than_dimensions() -> None:
    X = torch.randn(3, 16)
    W, o = solved(X, X, ridge=1.0)
    torch.testing.assert_close(W, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(o, torch.zeros(16, dtype=torch.float64), atol=1e-6, rtol=0)


def test_one_image_moves_everything_by_its_own_step() -> None:
    W, o = solved(torch.ones(1, 4), torch.ones(1, 4) * 3, ridge=1.0)
    torch.testing.assert_close(torch.ones(4, dtype=torch.float64) @ W + o, torch.full((4,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("n", [3, 40])
def test_it_is_the_ridge_solution_whichever_side_is_smaller(n: int) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 8, generator=g, dtype=torch.float64), torch.randn(n, 8, generator=g, dtype=torch.float64)
    carry = Carry(ridge=0.5)
    carry.before(x)
    carry.after(y)
    weight, offset = carry.solve()
    xc, yc = (x - x.mean(0)).numpy(), (y - y.mean(0)).numpy()
    alpha = 0.5 * np.trace(xc.T @ xc) / 8
    expected = np.eye(8) + np.linalg.solve(xc.T @ xc + alpha * np.eye(8), xc.T @ (yc - xc))
    np.testing.assert_allclose(weight.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose((x.mean(0) @ weight + offset).numpy(), y.mean(0).numpy(), atol=1e-9)


def test_of_many_images_the_same_are_held_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duallora.methods.duallora.carry.FITTED", 50)
    g = torch.Generator().manual_seed(1)
    X = torch.randn(400, 3, generator=g)
    change, o = torch.eye(3) + 0.3 * torch.randn(3, 3, generator=g), torch.randn(3, generator=g)
    carry = Carry(1e-9)
    for x in X.split(7):
        carry.before(x)
    for y in (X @ change + o).split(7):
        carry.after(y)
    assert sum(map(len, carry.old.features)) == sum(map(len, carry.new.features)) == 50
    found, offset = carry.solve()  # other images before than after would give anything but this
    torch.testing.assert_close(found.float(), change, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(offset.float(), o, atol=1e-3, rtol=1e-3)
