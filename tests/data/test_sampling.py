from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.data.sampling import at_most, hold_out
from duallora.errors import DualLoRAError

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


def labelled(counts: list[int]) -> tuple[torch.Tensor, list[str]]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))], [str(i) for i in counts]


@settings(deadline=None)
@given(counts=COUNTS, share=st.floats(0, 0.99), seed=st.integers(0, 2**31))
def test_hold_out_partitions_and_keeps_every_class(counts: list[int], share: float, seed: int) -> None:
    labels, classes = labelled(counts)
    kept, held = hold_out(labels, classes, share, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    for label, count in enumerate(counts):
        out = int((labels[held] == label).sum())
        assert out < count or count == 0
        if share == 0:
            assert out == 0
        elif count >= 2:
            assert out == min(max(1, round(share * count)), count - 1)


@settings(deadline=None)
@given(counts=COUNTS, limit=st.integers(1, 40))
def test_at_most(counts: list[int], limit: int) -> None:
    labels, classes = labelled(counts)
    chosen = at_most(labels, classes, limit)
    assert len(set(chosen.tolist())) == len(chosen)
    assert torch.bincount(labels[chosen], minlength=len(counts)).tolist() == [min(count, limit) for count in counts]


def test_bad_arguments() -> None:
    with pytest.raises(DualLoRAError, match="most images per class is 0"):
        at_most(torch.tensor([0]), ["a"], 0)
    with pytest.raises(DualLoRAError, match="seed is -1"):
        hold_out(torch.tensor([0]), ["a"], 0.5, -1)
