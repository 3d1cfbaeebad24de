"""The residual adapters: confined, gated, concatenated."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.duallora.residual import ResidualAdapter


def trained(d: int, bases: list[torch.Tensor], rank: int = 2, seed: int = 0) -> ResidualAdapter:
    torch.manual_seed(seed)
    adapter = ResidualAdapter(d, 5)
    for task, basis in enumerate(bases, start=1):
        adapter.begin(task, basis, rank)
        if adapter.B_new is not None:
            torch.nn.init.normal_(adapter.B_new)
        adapter.end()
    return adapter


def orthogonal_bases(d: int, sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    x = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list(torch.linalg.qr(x).Q.float()[:, : sum(sizes)].split(sizes, 1))


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_residual_of_a_task_leaves_older_spans_unchanged(seed: int, tasks: int) -> None:
    """Invariant 3, basis "previous": the residual of task t maps span(Psi_1 ... Psi_{t-2}) to zero."""
    d = 16
    Psi = orthogonal_bases(d, [3] * tasks, seed)
    adapter = trained(d, Psi[:-1], seed=seed)  # task t = 1, 2, ... lives in Psi_{t-1}
    g = torch.Generator().manual_seed(seed)
    for t in range(1, tasks):
        own = adapter.owner == t
        for older in range(t - 1):
            x = torch.randn(4, 3, generator=g) @ Psi[older].T
            assert float((x @ adapter.A[own].T).abs().max()) < 1e-5 * float(x.norm())
        inside = torch.randn(4, 3, generator=g) @ Psi[t - 1].T
        assert float((inside @ adapter.A[own].T).abs().max()) > 1e-4


def test_gates_scale_each_tasks_output() -> None:
    d = 12
    adapter = trained(d, orthogonal_bases(d, [3, 3, 3]))
    x = torch.randn(2, 4, d)
    alone = []
    for t in (1, 2, 3):
        gates = torch.zeros(2, 4)
        gates[:, t] = 1
        alone.append(adapter(x, gates))
    gates = torch.tensor([[1.0, 0.3, 0.0, 1.0], [1.0, 1.0, 0.5, 0.0]])
    expected = sum(gates[:, t].view(2, 1, 1) * alone[t - 1] for t in (1, 2, 3))
    torch.testing.assert_close(adapter(x, gates), expected)


def test_gates_at_one_are_the_merged_map_and_at_zero_nothing() -> None:
    """Invariant 4, on the map itself."""
    d = 12
    adapter = trained(d, orthogonal_bases(d, [3, 3]))
    x = torch.randn(2, 4, d)
    merged = x @ adapter.merged().T
    torch.testing.assert_close(adapter(x, torch.ones(2, 3)), merged, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapter(x, None), merged, atol=1e-5, rtol=1e-5)
    assert adapter(x, torch.zeros(2, 3)).abs().max() == 0


def test_the_task_in_training_counts_fully_and_alone_has_gradients() -> None:
    d = 12
    Psi = orthogonal_bases(d, [3, 3])
    adapter = trained(d, Psi[:1])
    adapter.begin(2, Psi[1], rank=2)
    torch.nn.init.normal_(adapter.B_new)
    x = torch.randn(2, 4, d)
    closed = adapter(x, torch.zeros(2, 2))
    assert closed.abs().max() > 0
    closed.square().sum().backward()
    assert adapter.Z.grad.abs().sum() > 0
    assert len(list(adapter.parameters())) == 2


def test_an_empty_basis_adds_no_rank() -> None:
    adapter = trained(6, [torch.zeros(6, 0), torch.eye(6)[:, :2]])
    assert adapter.owner.tolist() == [2, 2]
    assert adapter.rank == 2
