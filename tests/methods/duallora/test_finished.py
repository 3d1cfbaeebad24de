"""All finished residuals in one pass: the same as one residual after another, and never of factors that are gone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.duallora.finished import Finished


def factors(tasks: int, blocks: int, rank: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tasks, 2 * blocks, rank, dim, generator=g) / dim**0.5,
        torch.randn(tasks, 2 * blocks, dim, rank, generator=g) / rank**0.5,
    )


@settings(max_examples=30, deadline=None)
@given(tasks=st.integers(1, 4), blocks=st.integers(1, 4), rank=st.integers(1, 5), batch=st.integers(1, 3))
def test_coordinates_stand_for_the_residuals_written_out(tasks: int, blocks: int, rank: int, batch: int) -> None:
    dim = 8
    A, B = factors(tasks, blocks, rank, dim)
    ours = Finished(A, B)
    g = torch.Generator().manual_seed(1)
    h, q, mix = (torch.randn(blocks, *shape, generator=g) for shape in ((batch, dim), (batch, dim), (dim, dim)))
    p = ours.begin(batch)
    for block in range(blocks):
        answers = torch.tanh(ours.asked(block, q[block], h[block], p) @ mix[block])  # any answer will do
        ours.answered(block, answers, p)
    deltas = ours.deltas(p)
    for t in range(tasks):
        delta = torch.zeros(batch, dim)
        for block in range(blocks):
            asked = q[block] + (h[block] + delta) @ A[t, 2 * block].T @ B[t, 2 * block].T
            answer = torch.tanh(asked @ mix[block])
            delta = delta + answer @ A[t, 2 * block + 1].T @ B[t, 2 * block + 1].T
        torch.testing.assert_close(deltas[t], delta, rtol=1e-4, atol=1e-4)


def test_other_factors_are_arranged_anew() -> None:
    A, B = factors(2, 2, 3, 8)
    ours = Finished(A, B)
    assert ours.serves(A)
    assert not ours.serves(A.clone())  # a new task, or a model loaded, has factors of its own


def test_nothing_is_rounded_where_the_pass_is_of_low_precision() -> None:
    A, B = factors(2, 2, 3, 8)
    h, q = torch.randn(3, 8), torch.randn(3, 8)
    plain = Finished(A, B)
    with torch.autocast("cpu", torch.bfloat16):
        ours = Finished(A, B)
    for name in ("ask", "follow", "question", "take"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(ours, name), getattr(plain, name), strict=True))
    assert ours.asked(0, q, h, ours.begin(3)).dtype == torch.float32


@pytest.mark.parametrize("block", [0, 1])
def test_tasks_do_not_see_each_other(block: int) -> None:
    A, B = factors(3, 2, 2, 8)
    one, all_ = Finished(A[1:2], B[1:2]), Finished(A, B)
    g = torch.Generator().manual_seed(2)
    h, q = torch.randn(2, 8, generator=g), torch.randn(2, 8, generator=g)
    answers = torch.randn(3, 2, 8, generator=g)
    before, alone = all_.begin(2), one.begin(2)
    all_.answered(0, answers, before)
    one.answered(0, answers[1:2], alone)
    torch.testing.assert_close(all_.asked(block, q, h, before)[1:2], one.asked(block, q, h, alone))
