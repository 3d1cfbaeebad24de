"""The peak is that of a run, not of the process's life."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from duallora.evaluation.memory import forget_peak, peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process can forget its peak")
def test_what_was_used_before_is_forgotten() -> None:
    forget_peak(CPU)  # what tests before this one used, in the same process
    held = np.ones(200_000_000, dtype=np.uint8)
    high = peak_memory(CPU)
    assert high >= held.nbytes
    del held
    assert peak_memory(CPU) > high - 50_000_000
    forget_peak(CPU)
    assert peak_memory(CPU) < high - 150_000_000
    again = np.ones(200_000_000, dtype=np.uint8)
    assert peak_memory(CPU) > high - 50_000_000 and again.any()
