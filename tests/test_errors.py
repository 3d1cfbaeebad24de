"""Errors that a user can mend: the name that was meant, where one can be told."""

from __future__ import annotations

import pytest

from duallora.errors import unknown


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("dualora", ["duallora", "lora"], "duallora"),
        ("ncn", ["ncm", "slda"], "ncm"),
        ("loar", ["lora", "slda"], "lora"),
        ("cifar100_10", ["cifar100-10", "digits"], "cifar100-10"),
    ],
)
def test_a_misspelt_name_comes_with_the_one_that_was_meant(typed: str, known: list[str], meant: str) -> None:
    assert str(unknown("name", typed, known)) == (
        f"unknown name '{typed}'; did you mean '{meant}'? Known: {', '.join(sorted(known))}"
    )


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("inflora", ["sd-lora", "second-hand"]),
        ("inflora", ["c-lora", "sd-lora", "second-hand"]),
        ("standard", ["vit-b", "resized"]),
    ],
)
def test_another_name_is_not_taken_for_a_misspelt_one(typed: str, known: list[str]) -> None:
    assert str(unknown("name", typed, known)) == f"unknown name '{typed}'. Known: {', '.join(sorted(known))}"
