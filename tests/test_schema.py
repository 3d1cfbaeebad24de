"""Models as tables: types, bounds and defaults as a reader would type them."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field, PositiveInt

from duallora.schema import model_table, settings_table, type_words


class Inner(BaseModel):
    """What lies inside."""

    rate: float = Field(0.5, gt=0, lt=1, description="how fast")


class Outer(BaseModel):
    """What lies outside.

    Not in a table.
    """

    inner: Inner = Field(default_factory=Inner, description="the other")
    name: Literal["a", "b"] | None = Field("a", description="which")
    size: int | None = Field(None, ge=1, description="how large")
    pairs: tuple[tuple[PositiveInt, int], ...] = ()


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (tuple[int, ...], "list of integer"),
        (tuple[int, str], "[integer, text]"),
        (list[int | None], "list of (integer, or null)"),
        (Literal["x", 1], '`"x"` or `1`'),
        (Inner, "[Inner](#inner)"),
    ],
    ids=str,
)
def test_types_in_words(annotation: object, words: str) -> None:
    assert type_words(annotation) == words


def test_settings_with_defaults_and_what_lies_inside() -> None:
    rows = settings_table(Outer, "o.", {"pairs": "said elsewhere", "name": "not this"}).splitlines()
    assert rows[0] == "| key | type | default | meaning |"
    assert rows[2:] == [
        "| `o.inner.rate` | number > 0 < 1 | `0.5` | how fast |",
        '| `o.name` | `"a"` or `"b"`, or null | `a` | which |',
        "| `o.size` | integer >= 1, or null | `null` | how large |",
        "| `o.pairs` | list of [integer > 0, integer] | `[]` | said elsewhere |",
    ]


def test_a_model_links_to_the_models_in_it() -> None:
    text = model_table(Outer)
    assert text.startswith("## Outer\n\nWhat lies outside.\n\n| key |")
    assert "| `inner` | [Inner](#inner) | the other |" in text
    assert "| `size` | integer >= 1, or null | how large |" in text
