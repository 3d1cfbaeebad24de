"""Names of tasks: each once, in characters that can be shown and saved."""

from __future__ import annotations

import os
from typing import Any

import pytest

from duallora.errors import DualLoRAError
from duallora.task_names import task_name


@pytest.mark.parametrize(
    ("given", "own", "taken", "name"),
    [
        (None, "animals", [], "animals"),
        ("pets", "animals", [], "pets"),
        ("", "animals", [], "animals"),
        (None, "", [], "task 1"),
        (None, "animals", ["animals"], "task 2"),
        (None, "", ["task 2"], "task 3"),
        (None, "task 2", ["task 2", "task 3"], "task 4"),
        (None, "red\x1b[31m", ["animals"], "task 2"),
        ("good", os.fsdecode(b"bad\xe9"), [], "good"),
    ],
)
def test_a_name_is_the_given_one_the_folders_or_the_next_number(
    given: str | None, own: str, taken: list[str], name: str
) -> None:
    assert task_name(given, own, taken) == name


@pytest.mark.parametrize(
    ("given", "own", "told"),
    [
        ("animals", "", "has a task 'animals' already; give another --name"),
        ("two\nlines", "", "nobody can see"),
        (5, "", "is 5, expected text, such as name='5'"),
        ("\udce9", "", "no valid Unicode"),
        (None, "\udce9", "no valid Unicode"),
    ],
)
def test_what_is_no_name_is_told(given: Any, own: str, told: str) -> None:
    with pytest.raises(DualLoRAError, match=told):
        task_name(given, own, ["animals"])
