"""What is loaded is there and fits, or is named."""

from __future__ import annotations

import re

import pytest
import torch

from duallora.errors import DualLoRAError
from duallora.lowrank.saved import REMEDY, saved_tensor

STATE = {"A": torch.zeros(2, 4), "none": torch.zeros(0, 4), "one": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("key", "shape"),
    [("A", (2, 4)), ("A", torch.Size((2, 4))), ("A", (None, 4)), ("none", (None, 4)), ("one", ())],
)
def test_what_fits_is_given_as_it_is(key: str, shape: tuple[int | None, ...]) -> None:
    assert saved_tensor(STATE, key, shape) is STATE[key]


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("B", (3, None), "update.B: missing, expected shape (3, any)"),
        ("A", (2, 3), "update.A: shape (2, 4), expected shape (2, 3)"),
        ("A", (None, 4, 1), "update.A: shape (2, 4), expected shape (any, 4, 1)"),
        ("A", (None,), "update.A: shape (2, 4), expected shape (any)"),
        ("none", (0, 5), "update.none: shape (0, 4), expected shape (0, 5)"),
    ],
)
def test_what_does_not_fit_is_named(key: str, shape: tuple[int | None, ...], said: str) -> None:
    with pytest.raises(DualLoRAError, match=f"^{re.escape(f'{said}; {REMEDY}')}$"):
        saved_tensor(STATE, key, shape, "update.")
