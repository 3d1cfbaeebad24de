"""The page: every number of every run, one file, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.files import user_path, write_text_atomic
from duallora.report.charts import Curves, curves
from duallora.report.summary import Benchmark, Figure, MethodGroup, benchmarks
from duallora.report.templating import rendered

TITLE = "Learning task after task"


@dataclass(frozen=True)
class Column:
    """A column of the summary: its heading, a note under it, and a figure per method."""

    head: str
    note: str
    figures: list[Figure | None]
    lowest: bool = False

    @property
    def best(self) -> Figure | None:
        """The best figure, None where there is nothing to compare."""
        known = [figure for figure in self.figures if figure is not None]
        return (min if self.lowest else max)(known, key=lambda figure: figure.mean) if len(known) > 1 else None


@dataclass(frozen=True)
class Bars:
    """One bar per method, in percent of its track: the figure, where the bar begins, its length, and where 0 is."""

    track: float
    bars: list[tuple[Figure | None, float, float, float]]


def write_report(runs: Sequence[RunResults], out: str | Path, title: str = TITLE) -> Path:
    """Write one self-contained HTML page about some runs and return its path.

    Runs on the same stream and backbone are compared; those of one method that differ in seed or class order only are
    averaged. The page needs no network and no script, and follows the reader's choice of light or dark.

    Args:
        runs: one or more, as from `collect_runs`.
        out: the file to write, or a folder, in which it is called `report.html`.
        title: heading of the page.

    Raises:
        DualLoRAError: no runs, or the place cannot be written or is not the name of a page.
    """
    out = user_path(out)
    page = out.suffix.lower() in (".html", ".htm")
    if out.suffix and not page and not out.is_dir():
        raise DualLoRAError(f"'{out}' is neither a folder nor the name of a page; end it in .html")
    path = out if page else out / "report.html"
    write_text_atomic(path, render(runs, title))
    return path


def render(runs: Sequence[RunResults], title: str = TITLE) -> str:
    """The page as text.

    Raises:
        DualLoRAError: no runs.
    """
    if not runs:
        raise DualLoRAError("there are no runs to report; give at least one, for instance from collect_runs(folder)")
    grouped = benchmarks(runs)
    labels = dict.fromkeys(method.label for benchmark in grouped for method in benchmark.methods)
    return rendered(
        "report.html.j2",
        title=title,
        benchmarks=grouped,
        hue_of={label: index for index, label in enumerate(labels)},  # the same method looks the same everywhere
        runs=runs,
        charts=_charts,
        columns=_columns,
        forgetting_bars=_forgetting_bars,
        phases=_phases,
    )


def _charts(benchmark: Benchmark, hue_of: Mapping[str, int]) -> list[tuple[str, Curves]]:
    """The curves twice, laid out for a wide and for a narrow screen, so that text keeps its size on both."""
    named = [(method.label, hue_of[method.label], method.curve) for method in benchmark.methods]
    return [("wide", curves(named, 700, 360)), ("narrow", curves(named, 350, 300))]


def _columns(methods: Sequence[MethodGroup]) -> list[Column]:
    """The columns of the summary, in percent."""
    columns = [
        Column("Accuracy", "a_last", [method.figure("a_last") for method in methods]),
        Column("Average", "a_avg", [method.figure("a_avg") for method in methods]),
        Column("Forgetting", "lower is better", [method.figure("forgetting") for method in methods], lowest=True),
        Column("Task given", "task_il", [method.figure("task_il") for method in methods]),
        Column("Task named", "task_id_accuracy", [method.last("task_id_accuracy") for method in methods]),
        Column(
            "Calibration",
            "error, lower is better",
            [method.last("calibration_error") for method in methods],
            lowest=True,
        ),
    ]
    if any(method.figure("fwt") for method in methods):
        columns.append(Column("Forward", "fwt", [method.figure("fwt") for method in methods]))
    return columns


def _forgetting_bars(benchmark: Benchmark) -> Bars | None:
    """Forgetting as bars on a track of a round length, the same for all; None where no method has any."""
    figures = [method.figure("forgetting") for method in benchmark.methods]
    values = [figure.mean for figure in figures if figure]
    if not values:
        return None
    high = next(edge for edge in (0.1, 0.25, 0.5, 1.0) if max(values) <= edge)
    low = min(0.0, *(round(value, 3) for value in values))
    scale = 100 / (high - low)
    bars: list[tuple[Figure | None, float, float, float]] = []
    for figure in figures:
        value = figure.mean if figure else 0.0
        bars.append((figure, (min(0.0, value) - low) * scale, abs(value) * scale, -low * scale))
    return Bars(high, bars)


def _phases(benchmark: Benchmark) -> list[str]:
    """Phases of all methods, in the order in which they are first seen."""
    return list(dict.fromkeys(phase for method in benchmark.methods for phase in method.seconds))
