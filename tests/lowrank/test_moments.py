"""Second moments do not depend on how the features were batched or shared out."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.lowrank import SecondMoment


@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=6)
)
@settings(max_examples=30, deadline=None)
def test_batching_and_sharing_do_not_matter(n: int, d: int, seed: int, cuts: list[int]) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 10
    whole, shares = SecondMoment(d), [SecondMoment(d), SecondMoment(d)]
    whole.update(x)
    at = 0
    for i, cut in enumerate([*cuts, n]):
        if at < n:
            shares[i % 2].update(x[at : at + cut])
        at += cut
    shares[0].merge(shares[1])
    assert shares[0].count == whole.count == n
    torch.testing.assert_close(shares[0].value(), whole.value(), rtol=1e-5, atol=1e-5)
    expected = np.einsum("ni,nj->ij", x.double().numpy(), x.double().numpy()) / n
    np.testing.assert_allclose(whole.value().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_leading_axes_are_flattened_and_autocast_does_not_reach_the_sum() -> None:
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    plain, under = SecondMoment(8), SecondMoment(8)
    plain.update(x.reshape(20, 8))
    with torch.autocast("cpu", torch.bfloat16):
        under.update(x)
    assert torch.equal(plain.value(), under.value())


def test_nothing_added_is_zero() -> None:
    assert SecondMoment(3).value().abs().sum() == 0
