"""The page of a suite: its tables and curves, one file, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duallora.bench.aggregate import FIGURES, TITLES, Line, best, costs, tables
from duallora.bench.index import Index
from duallora.bench.table import KINDS, TIMED, device_of, facts, not_whole, numbered, source_of
from duallora.report.charts import Curves, curves
from duallora.report.summary import Figure
from duallora.report.templating import rendered


@dataclass(frozen=True)
class Entry:
    """A line of a table as it is shown."""

    line: Line
    note: str
    figures: list[tuple[Figure | None, bool]]


@dataclass(frozen=True)
class Section:
    """A table, and the curves of its lines."""

    title: str
    rows: list[Entry]
    curves: list[tuple[str, list[Figure | None]]]
    charts: list[tuple[str, Curves]]


def page(index: Index, lines: Sequence[Line]) -> str:
    """The page as text; `lines` has at least one that was measured."""
    measured = [line for line in lines if line.runs]
    hue_of = _hues(measured)
    numbers = numbered(lines)
    trainings = list({line.row: line for line in reversed(measured)}.values())[::-1]
    runs = [run for line in measured for run in line.runs]
    spent = [(line, line.timed.seconds, costs(line) | {"device": device_of(line)}) for line in trainings]
    return rendered(
        "bench.html.j2",
        "duallora.bench",
        index=index,
        facts=" ".join([facts(runs).replace("`", ""), not_whole(index, runs)]).strip(),
        heads=list(FIGURES.values()),
        tables=[_section(TITLES[group], held, hue_of, numbers) for group, held in tables(lines).items()],
        timed=TIMED,
        phases=list(dict.fromkeys(phase for _, phases, _ in spent for phase in phases)),
        trainings=[(line, phases, cost | _absent(cost)) for line, phases, cost in spent],
        sources=list(numbers),
        about={name: row.about for name, row in index.rows.items() if row.about},
        files=sum(len(line.runs) for line in measured),
        hue_of=hue_of,
    )


def _hues(lines: Sequence[Line]) -> dict[str, int]:
    """Colour and marker of each line: the same in every table, and one's own within each as far as they go."""
    common = [line.label for line in lines if len(line.groups) > 1]
    hues = {label: number for number, label in enumerate(common)}
    for group in TITLES:
        own = [line.label for line in lines if line.groups == (group,)]
        hues |= {label: len(common) + number for number, label in enumerate(own)}
    return hues


def _section(title: str, lines: Sequence[Line], hue_of: Mapping[str, int], numbers: Mapping[str, int]) -> Section:
    leaders = {name: best(lines, name) for name in FIGURES if name.startswith("a_")}
    rows = []
    for line in lines:
        note = f" [{numbers[source_of(line)]}]" if line.published else KINDS.get(line.kind, "")
        rows.append(Entry(line, note, [(line.figure(name), line in leaders.get(name, ())) for name in FIGURES]))
    drawn = [(line.label, curve) for line in lines if line.runs and (curve := line.group.curve)]
    named = [(label, hue_of[label], curve) for label, curve in drawn]
    wide = len(drawn[0][1]) > 1 if drawn else False
    charts = [("wide", curves(named, 1280, 480)), ("narrow", curves(named, 350, 340))] if wide else []
    return Section(title, rows, drawn, charts)


def _absent(cost: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "peak_memory_bytes" in cost else {"peak_memory_bytes": None}
