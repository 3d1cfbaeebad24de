"""Sums by row: the same held as vectors and as matrices, and in little room."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.methods.moments import RowMoments


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    rows=st.integers(1, 4),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_they_are_the_sums_of_each_row_however_many_come(sizes: list[int], rows: int, width: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(sum(sizes), width, generator=draw)
    y = torch.randint(rows, (sum(sizes),), generator=draw)
    moments = RowMoments(rows, width)
    for part, own in zip(z.split(sizes), y.split(sizes), strict=True):
        moments.add(part, own)
    found = list(moments)
    assert len(found) == len(moments) == rows
    for row, (total, outer) in enumerate(found):
        of_row = z[y == row].double()
        torch.testing.assert_close(total, of_row.sum(0))
        torch.testing.assert_close(outer, of_row.T @ of_row)
    total, outer = moments.whole()
    torch.testing.assert_close(total, z.double().sum(0), check_dtype=False)
    torch.testing.assert_close(outer, z.double().T @ z.double())


def held(moments: RowMoments) -> int:
    tensors = [t for pair in (*moments._held, moments._sums or ()) for t in pair]
    return sum(t.untyped_storage().nbytes() for t in tensors if t.is_floating_point())


@pytest.mark.parametrize(("images", "most"), [(0, 0), (300, 300 * 64 * 4), (5000, 10 * 65 * 64 * 8)])
def test_no_row_takes_more_than_its_images_or_its_matrix(images: int, most: int) -> None:
    moments, y = RowMoments(10, 64), torch.arange(images) % 10
    for part in y.split(50):
        moments.add(torch.ones(len(part), 200)[:, :64], part)
    assert held(moments) == most
