"""Invariant 1: A_o Phi = 0 at every step, under any optimiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.duallora.orthogonal import OrthogonalAdapter


def basis(d: int, k: int, seed: int) -> torch.Tensor:
    x = torch.randn(d, max(k, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(x).Q[:, :k].float()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@given(st.integers(2, 20), st.data(), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_orthogonal_at_every_step(optimizer: str, d: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(0, d))
    Phi = basis(d, k, seed)
    torch.manual_seed(seed)
    adapter = OrthogonalAdapter(Phi, outputs=5, rank=3)
    if optimizer == "adamw":
        step = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.3)
    else:
        step = torch.optim.SGD(adapter.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    x, target = torch.randn(8, d), torch.randn(8, 5)
    for _ in range(8):
        step.zero_grad()
        (adapter(x) - target).square().mean().backward()
        step.step()
        A = adapter.down().detach()
        scale = float(adapter.Z.detach().norm()) + 1e-12
        assert float((A @ Phi).norm()) <= 1e-5 * scale
    used = torch.randn(4, k) @ Phi.T if k else torch.zeros(4, d)
    with torch.no_grad():
        assert float(adapter(used).abs().max()) <= 1e-4 * (1 + float(used.norm() * adapter.B.norm()))


def test_it_starts_at_zero_and_learns_outside_the_basis() -> None:
    Phi = basis(8, 3, 1)
    torch.manual_seed(0)
    adapter = OrthogonalAdapter(Phi, 4, 2)
    x = torch.randn(6, 8)
    assert adapter(x).abs().max() == 0
    torch.nn.init.normal_(adapter.B)
    assert adapter(x).abs().max() > 0
    A, B = adapter.factors()
    torch.testing.assert_close(adapter(x), x @ (B @ A).T, atol=1e-5, rtol=1e-5)


def test_a_full_basis_leaves_nothing_and_no_nan() -> None:
    adapter = OrthogonalAdapter(basis(6, 6, 2), 4, 2)
    torch.nn.init.normal_(adapter.B)
    assert adapter(torch.randn(3, 6)).abs().max() < 1e-5


def test_the_constraint_is_float32_under_autocast() -> None:
    Phi = basis(16, 8, 3)
    adapter = OrthogonalAdapter(Phi, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        A = adapter.down().detach()
    assert A.dtype == torch.float32
    assert float((A @ Phi).abs().max()) < 1e-5
