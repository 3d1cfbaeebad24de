"""The proximal step against the problem that it solves, and that dropping shut directions changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duallora.lowrank.gated import GatedLowRank, Gates, shrink


def test_the_step_solves_its_minimisation() -> None:
    xi, z = 0.3, np.linspace(-2, 2, 40_001)
    for g in (-1.7, -0.31, -0.29, 0.0, 0.1, 0.3, 0.45, 1.2):
        best = z[np.argmin(0.5 * (z - g) ** 2 + xi * np.abs(z))]
        assert float(shrink(torch.tensor(g), xi)) == pytest.approx(best, abs=1e-4)


def test_the_dead_zone_reaches_twice_as_far() -> None:
    gates, xi = [-1.0, -0.61, -0.59, -0.29, 0.0, 0.29, 0.31, 0.59, 0.61, 1.0], 0.3
    expected = []
    for g in gates:  # step by step, as the three assignments of the public code are described
        g = g - xi if g > xi else g + xi if g < -xi else g
        expected.append(0.0 if abs(g) < xi else g)
    torch.testing.assert_close(shrink(torch.tensor(gates), xi, "dead-zone"), torch.tensor(expected))
    kept = [float(g) != 0 for g in shrink(torch.tensor(gates), xi, "dead-zone")]
    assert kept == [abs(g) > 2 * xi for g in gates]


def made(gate: list[float]) -> GatedLowRank:
    update = GatedLowRank(7, 5, len(gate))
    torch.nn.init.normal_(update.B)
    update.gate.data = torch.tensor(gate)
    return update


def test_the_update_is_the_gated_product_and_pruning_keeps_it() -> None:
    update, x = made([2.0, 0.0, -0.5]), torch.randn(4, 7)
    A, B, g = (t.detach().numpy() for t in (update.A, update.B, update.gate))
    expected = torch.from_numpy(((x.numpy() @ A.T) * g) @ B.T)
    torch.testing.assert_close(update(x), expected)
    torch.testing.assert_close(x @ update.matrix().T, expected)
    down, up = update.factors()
    assert down.shape == (2, 7)
    torch.testing.assert_close(x @ down.T @ up.T, expected)
    update.prune()
    assert update.A.shape == (2, 7) and update.gate.tolist() == [2.0, -0.5]
    torch.testing.assert_close(update(x), expected)


def test_nothing_left_is_a_zero_update_that_can_begin_again() -> None:
    update = made([0.0, 0.0])
    update.prune()
    assert not any(p.requires_grad for p in update.parameters())
    assert torch.equal(update(torch.randn(3, 7)), torch.zeros(3, 5))
    assert Gates().loss([update]).item() == 0
    update.restart(4)
    assert update.A.shape == (4, 7) and all(p.requires_grad for p in update.parameters())
    assert (update.gate != 0).all() and not update.B.any()


def test_gates_start_normal() -> None:
    torch.manual_seed(0)
    again = GatedLowRank(7, 5, 1)
    again.restart(20_000)
    for gate in (GatedLowRank(7, 5, 20_000).gate, again.gate):
        g = gate.detach().double()
        assert abs(float(g.mean())) < 0.03 and abs(float(g.std()) - 1) < 0.02
        assert abs(float((g**4).mean()) - 3) < 0.25  # of a uniform law it is 1.8, of signs 1


def test_the_penalty_is_the_mean_over_all_gates_and_the_step_reaches_all() -> None:
    updates, gates = [made([1.0, -2.0]), made([0.5])], Gates(xi=0.6, penalty=3.0)
    assert gates.loss(updates).item() == pytest.approx(3 * (1 + 2 + 0.5) / 3)
    gates.step(updates)
    torch.testing.assert_close(torch.cat([u.gate for u in updates]).detach(), torch.tensor([0.4, -1.4, 0.0]))
