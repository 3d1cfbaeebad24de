"""Finding results in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.report import collect_runs

Maker = Callable[..., RunResults]


def test_all_below_in_the_order_of_paths(tmp_path: Path, make_run: Maker) -> None:
    for place in ("b/deep/er", "a", ".", ".hidden", "b/.cache"):
        make_run(method=place).save(tmp_path / place / "results.json")
    assert [run.method for run in collect_runs(tmp_path)] == ["a", "b/deep/er", "."]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match="there is no folder"):
        collect_runs(tmp_path / "missing")
    with pytest.raises(DualLoRAError, match=r"no results\.json in .*duallora demo.*, then duallora report"):
        collect_runs(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path, make_run: Maker) -> None:
    make_run().save(tmp_path / "good" / "results.json")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text("{}")
    with pytest.raises(DualLoRAError, match=r"bad.results\.json"):
        collect_runs(tmp_path)
