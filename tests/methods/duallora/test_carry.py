"""Carrying statistics along with drift."""

from __future__ import annotations

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
