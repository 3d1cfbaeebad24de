"""docs/settings.md: every key, none without a word on it."""

from __future__ import annotations

import re
from pathlib import Path

from duallora.config import load_config
from duallora.methods.registry import get_method, list_methods
from duallora.settings_page import settings_page


def test_page_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), (
        "run: python -m duallora.settings_page > docs/settings.md"
    )


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    keys = {row.split("`")[1] for row in rows}
    assert {"seed", "device", "stream.increment", "backbone.levels", "training.epochs", "method.name"} <= keys
    for name in list_methods():
        assert {f"method.options.{key}" for key in get_method(name).Config.model_fields if key != "align"} <= keys
    assert "method.options.align.rescale" in keys


def test_keys_are_those_that_set_takes() -> None:
    config = load_config("digits", ["training.epochs=3", "stream.held_out=0.3", "backbone.levels=0", "seed=4"])
    assert (config.training.epochs, config.stream.held_out, config.backbone.levels, config.seed) == (3, 0.3, 0, 4)
