"""By how many points DualLoRA is above others and what its parts are worth, order by order: what claims rest on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from duallora.bench.aggregate import TITLES, Line, collect, seen, tables
from duallora.bench.index import Index
from duallora.bench.suite import Group
from duallora.bench.table import pipe_table
from duallora.report.numbers import share

FROZEN = ("ncm", "slda", "probe")  # methods that leave the backbone as it came
OURS: dict[Group, str] = {"none": "duallora+tasks", "statistics": "duallora"}
"""Lines whose margins are told: the same on every suite, where of others the read-out that is best there is taken."""
PARTS = {
    "reading the network at several depths": ("slda", "slda-final"),
    "a covariance per class": ("slda+quadratic", "slda"),
    "residual adapters": ("duallora-residual", "probe-smoothed+product"),
    "the orthogonal adapter of later tasks": ("duallora-no-first-session", "duallora-residual"),
    "the first session": ("duallora", "duallora-no-first-session"),
    "residual adapters, without class statistics": ("duallora-residual+tasks", "probe-smoothed+tasks"),
    "the orthogonal adapter, without class statistics": ("duallora-no-first-session+tasks", "duallora-residual+tasks"),
    "the first session, without class statistics": ("duallora+tasks", "duallora-no-first-session+tasks"),
    "one Gaussian per task beside the heads": ("duallora+tasks", "duallora+heads"),
}
"""What a part is worth: a line with it, and one that lacks it and is alike otherwise."""


def margins_table(folders: Sequence[Path]) -> str:
    """DualLoRA by its defaults against the best of the frozen backbone and the nearest rival: a line per suite.

    Each difference is over the class orders that both have seen, in percentage points: the mean, and every order. The
    line that it is against is the one that comes nearest, in A last and in A avg apart.
    """
    heads = ["suite", "DualLoRA, A last", "above the frozen backbone", "above the nearest rival"]
    heads += ["DualLoRA, A avg", "above the frozen backbone", "above the nearest rival"]
    parts = []
    for group, title in TITLES.items():
        rows = []
        for folder in folders:
            held = tables(collect(folder, Index.load(folder))).get(group, [])
            ours = next((line for line in held if line.label == OURS[group] and line.runs), None)
            if ours is not None:
                told = [_told(ours, held, name) for name in ("a_last", "a_avg")]
                rows.append([f"`{folder.name}`", *[cell for cells in told for cell in cells]])
        if rows:
            parts += [f"**{title}** (`{OURS[group]}`)", pipe_table(heads, rows)]
    return "\n\n".join(parts) + "\n"


def parts_table(folders: Sequence[Path]) -> str:
    """What each part of DualLoRA is worth in A last, in percentage points, on each suite: the mean, and every order."""
    found = [{line.label: line for line in collect(folder, Index.load(folder)) if line.runs} for folder in folders]
    rows = []
    for part, labels in PARTS.items():
        cells = []
        for lines in found:
            pair = [lines[label] for label in labels if label in lines]
            gaps = differences(pair[0], pair[1], "a_last") if len(pair) == 2 else []
            cells.append(_spread(gaps) if gaps else "-")
        if any(cell != "-" for cell in cells):
            rows.append([f"{part} (`{labels[0]}` less `{labels[1]}`)", *cells])
    heads = ["part", *[f"`{folder.name}`" for folder in folders]]
    return pipe_table(heads, rows) + "\n"


def differences(ours: Line, theirs: Line, name: str) -> list[float]:
    """`ours` less `theirs` in the figure `name`, for each class order and seed that both have seen, as shares of 1."""
    mine, other = seen(ours), seen(theirs)
    pairs = [(getattr(mine[key], name), getattr(other[key], name)) for key in mine if key in other]
    return [a - b for a, b in pairs if a is not None and b is not None]


def nearest(ours: Line, held: Sequence[Line], name: str, *, frozen: bool) -> Line | None:
    """The line that `ours` is least above in the mean, of those on the frozen backbone or of all others."""
    found = []
    for line in held:
        if line.kind in ("yardstick", "published") or line.label == ours.label:
            continue
        method = line.runs[0].config["method"]["name"]
        if method != "duallora" and (method in FROZEN) is frozen and (gaps := differences(ours, line, name)):
            found.append((statistics.fmean(gaps), line.label, line))
    return min(found)[2] if found else None


def _told(ours: Line, held: Sequence[Line], name: str) -> list[str]:
    """A figure, and how far above others it is: "1.6 (1.7, 1.3, 1.8) `slda`"."""
    figure = ours.figure(name)
    cells = [share(figure.mean) if figure else "-"]
    for frozen in (True, False):
        other = nearest(ours, held, name, frozen=frozen)
        if other is None:
            cells.append("-")
            continue
        cells.append(f"{_spread(differences(ours, other, name))} `{other.label}`")
    return cells


def _spread(gaps: Sequence[float]) -> str:
    """The mean, and every order."""
    return f"{share(statistics.fmean(gaps))} ({', '.join(share(gap) for gap in gaps)})"
