"""By how much DualLoRA is above others: over the orders that both have, against the line that comes nearest."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from duallora.bench.aggregate import Line
from duallora.bench.cells import Grid
from duallora.bench.index import Index
from duallora.bench.margins import differences, margins_table, nearest


def line(label: str, method: str, *figures: float | None, first: int = 1, kind: Any = "measured") -> Line:
    """A line with one run per figure, of class orders `first`, `first` + 1, ..."""
    runs = [
        SimpleNamespace(
            tasks=[], class_order=[str(order)], seed=0, a_last=value, a_avg=value, config={"method": {"name": method}}
        )
        for order, value in enumerate(figures, first)
    ]
    return Line(label, label, "", kind, ("statistics",), tuple(runs))  # type: ignore[arg-type]


OURS = line("duallora", "duallora", 0.6, 0.7, 0.9)


def test_only_orders_that_both_have_seen_are_compared() -> None:
    assert differences(OURS, line("one", "slca", 0.5), "a_last") == pytest.approx([0.1])
    assert differences(OURS, line("late", "slca", 0.5, 0.5, first=2), "a_avg") == pytest.approx([0.2, 0.4])
    assert differences(OURS, line("none", "slca", None, 0.5), "a_last") == pytest.approx([0.2])
    assert differences(OURS, line("others", "slca", 0.5, first=7), "a_last") == []


def test_the_nearest_is_that_with_the_least_difference_on_common_orders() -> None:
    held = [
        OURS,
        line("duallora-residual", "duallora", 0.7, 0.8, 0.95),  # a variant is no rival
        line("joint", "joint", 0.99, 0.99, 0.99, kind="yardstick"),
        line("easy order", "slca", 0.75, first=3),  # the highest mean of all rivals, and 15 points below in its order
        line("ranpac", "ranpac", 0.55, 0.75, 0.8),
        line("slda", "slda", 0.5, 0.5, 0.5),
        line("ncm", "ncm", 0.4, 0.4, 0.4, kind="no adaptation"),
    ]
    assert nearest(OURS, held, "a_last", frozen=False) is held[4]
    assert nearest(OURS, held, "a_last", frozen=True) is held[5]
    assert nearest(OURS, held[:3], "a_last", frozen=True) is None


def test_the_table_tells_the_mean_and_every_order(grid_of: Callable[..., Grid], finished: Callable[..., Any]) -> None:
    grid = grid_of(rows={name: {"method": {"name": name}} for name in ("ncm", "slda", "duallora", "slca")})
    runs: dict[str, list[Any]] = {}
    for cell in grid.cells:
        readout = {"duallora": "product", "ncm": "default", "slca": "align", "slda": "gaussian"}[cell.row]
        runs.setdefault(cell.row, []).append(finished(cell, (readout,)))
    index = Index.of(grid)
    index.save(grid.folder)
    table = margins_table([grid.folder])
    for row in ("ncm", "slca"):  # of these made-up runs `ncm` comes nearer than `slda`
        gaps = [100 * (ours.a_last - theirs.a_last) for ours, theirs in zip(runs["duallora"], runs[row], strict=True)]
        told = f"{sum(gaps) / 2:.1f} ({gaps[0]:.1f}, {gaps[1]:.1f}) `{row}`".replace("-0.0", "0.0")
        assert told.replace("-", "\u2212") in table
    assert table.startswith("**Keeps class statistics")  # no line `duallora+tasks`, so no other table
    assert f"| `{grid.folder.name}` |" in table
