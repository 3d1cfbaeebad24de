"""Invariant 2 of the design: bases of any sequence of tasks are orthonormal and mutually orthogonal."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.lowrank import capacity, extend_basis, project_out


def moment(n: int, d: int, seed: int, repeat: bool = False) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x[:1].expand(n, d) if repeat else x
    return x.T @ x / n


tasks = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 10**6), st.booleans()), min_size=1, max_size=6)


@given(st.integers(2, 24), tasks, st.floats(0.3, 1.0), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_bases_stay_orthonormal_whatever_comes(
    d: int, sequence: list[tuple[int, int, bool]], energy: float, reserve: int
) -> None:
    Phi = torch.zeros(d, 0)  # float32, as it is stored
    for n, seed, repeat in sequence:
        C = moment(n, d, seed, repeat)
        extension = extend_basis(C, Phi, energy, reserve)
        Psi = extension.basis
        assert torch.isfinite(Psi).all()
        Phi = torch.cat([Phi, Psi.float()], 1)
        gram = Phi.double().T @ Phi.double()
        torch.testing.assert_close(gram, torch.eye(Phi.shape[1], dtype=torch.float64), atol=1e-5, rtol=0)
        assert Phi.shape[1] <= max(d - reserve, 0)
        held = float(((Phi.double().T @ C) * Phi.double().T).sum() / C.trace())
        assert abs(held - extension.captured) < 1e-4
        assert extension.full or held >= energy - 1e-4


def test_fewest_directions_are_taken() -> None:
    C = torch.diag(torch.tensor([8.0, 1.5, 0.5]))
    none = torch.zeros(3, 0)
    assert [extend_basis(C, none, e).basis.shape[1] for e in (0.5, 0.8, 0.81, 0.95, 0.96, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_what_is_held_already_is_not_taken_again() -> None:
    C = torch.diag(torch.tensor([8.0, 1.5, 0.5]))
    first = extend_basis(C, torch.zeros(3, 0), 0.9).basis
    assert extend_basis(C, first, 0.9).basis.shape == (3, 0)


def test_one_image_adds_one_direction() -> None:
    extension = extend_basis(moment(1, 10, seed=3), torch.zeros(10, 0), energy=1.0)
    assert extension.basis.shape == (10, 1)
    assert extension.captured > 1 - 1e-9


def test_full_space_is_reported_and_the_reserve_kept() -> None:
    extension = extend_basis(torch.eye(6), torch.zeros(6, 0), energy=1.0, reserve=2)
    assert extension.full
    assert extension.basis.shape == (6, 4)
    again = extend_basis(torch.eye(6), extension.basis, energy=1.0, reserve=2)
    assert again.full
    assert again.basis.shape == (6, 0)
    assert capacity(extension.basis) == 4 / 6


def test_no_energy_adds_nothing() -> None:
    extension = extend_basis(torch.zeros(4, 4), torch.zeros(4, 0), energy=0.9)
    assert extension.basis.shape == (4, 0)
    assert not extension.full


@given(st.integers(1, 8), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_projection_removes_the_span_and_nothing_else(k: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    Phi = torch.linalg.qr(torch.randn(8, k, generator=g, dtype=torch.float64)).Q
    x = torch.randn(5, 8, generator=g, dtype=torch.float64)
    left = project_out(x, Phi)
    torch.testing.assert_close(left @ Phi, torch.zeros(5, k, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(project_out(left, Phi), left)
    torch.testing.assert_close(x - left, (x @ Phi) @ Phi.T)
