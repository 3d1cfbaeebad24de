"""From result files to lines of tables: one line per row and read-out, figures over class orders and seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from duallora.bench.index import Index, RowRecord
from duallora.bench.suite import NO_ADAPTATION, Group
from duallora.bench.suite import Figure as Published
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.report.numbers import share
from duallora.report.summary import Figure, MethodGroup, over

# Read-outs that answer by trained heads, with at most bases or a Gaussian of a task's images as one: all others keep
# something of each class.
WITHOUT_CLASS_STATISTICS = ("heads", "energy", "tasks")

Kind = Literal["measured", "no adaptation", "yardstick", "published"]

TITLES: dict[Group, str] = {
    "none": "Keeps no class statistics",
    "statistics": "Keeps class statistics (means, covariances, prototypes, ridge sums)",
}
FIGURES = {
    "a_last": "A last",
    "a_avg": "A avg",
    "a_last_tasks": "A last, mean over tasks",
    "a_avg_tasks": "A avg, mean over tasks",
    "forgetting": "forgetting",
    "task_il": "task given",
    "lost": "lost to task identity",
    "task_id": "task found",
}


@dataclass(frozen=True)
class Line:
    """What one training, read out in one way, comes to.

    Attributes:
        label: the row's name, and the read-out where it is not the row's own.
        row: the row's name; of a published line the method's.
        readout: "" where a method has but one.
        kind: "yardstick" keeps images, "published" was measured by others.
        groups: the tables that it stands in.
        runs: over class orders and seeds; none where it is published.
        published: where it is.
    """

    label: str
    row: str
    readout: str
    kind: Kind
    groups: tuple[Group, ...]
    runs: tuple[RunResults, ...] = ()
    published: Published | None = None

    def figure(self, name: str) -> Figure | None:
        """One of FIGURES as a share of 1; None unless every run has it."""
        if self.published is not None:
            mean, deviation = (getattr(self.published, key, None) for key in (name, f"{name}_deviation"))
            return None if mean is None else Figure(mean / 100, None if deviation is None else deviation / 100)
        return over([_figure(run, name) for run in self.runs])

    @property
    def group(self) -> MethodGroup:
        """Its runs as the report has them: curves."""
        return MethodGroup(self.label, self.runs)

    @property
    def device(self) -> str:
        """Kind of device that most of its runs had, such as "cpu" or "cuda"; the first by name of equals."""
        counts = Counter(_device(run) for run in self.runs)
        return min(counts, key=lambda device: (-counts[device], device))

    @property
    def timed(self) -> MethodGroup:
        """Its runs on that kind of device alone: seconds and memory of two kinds have no mean that means anything."""
        device = self.device
        return MethodGroup(self.label, tuple(run for run in self.runs if _device(run) == device))


def collect(folder: Path, index: Index, only: Collection[Path] | None = None) -> list[Line]:
    """All lines of a folder of results.

    Args:
        folder: of the suite's runs, or their published copies.
        index: of the suite.
        only: folders of runs to take; all by default.

    Raises:
        DualLoRAError: a results file is broken (named).
    """
    lines = []
    for name, row in index.rows.items():
        found: dict[str, list[RunResults]] = {}
        own = ""
        place = "order-*/**/results.json" if index.runs_per_row else "**/results.json"
        for path in sorted((folder / row.folder).glob(place)):
            apart = path.parent.parent.name == "readouts"
            run = path.parents[2] if apart else path.parent
            if only is not None and run not in only:
                continue
            results = RunResults.load(path)
            readout = str(results.config.get("method", {}).get("readout", path.parent.name if apart else ""))
            own = own if apart else readout
            found.setdefault(readout, []).append(results)
        if row.readouts is not None and found and not set(row.readouts) & set(found):
            raise DualLoRAError(
                f"row '{name}' shows the read-outs {row.readouts}, but {sorted(found)} were scored; mend the suite"
            )
        for readout in sorted(found, key=lambda r: (r != own, r)):
            if row.readouts is None or readout in row.readouts:
                lines.append(_line(name, row, readout, readout == own, found[readout]))
    for method, figure in index.published.items():
        groups: tuple[Group, ...] = ("none", "statistics") if figure.group == "both" else (figure.group,)
        lines.append(Line(f"{method}, published", method, "", "published", groups, published=figure))
    return lines


def tables(lines: Sequence[Line]) -> dict[Group, list[Line]]:
    """The lines of each table, best `a_last` first; a table in which nothing of its own stands is left out."""
    out: dict[Group, list[Line]] = {}
    for group in TITLES:
        held = [line for line in lines if group in line.groups]
        if any(len(line.groups) == 1 for line in held) or (held and not out and group == "statistics"):
            out[group] = sorted(held, key=lambda line: (-_rank(line), line.label))
    return out


def best(lines: Sequence[Line], name: str) -> list[Line]:
    """The best lines of a table in one figure, as tables print it; lines of reference and other people's figures apart.

    Only lines that have seen all class orders that any has: a mean over others may be higher for their sake alone.
    """
    rivals = [line for line in lines if line.kind == "measured" and line.figure(name) is not None]
    fullest = max((seen(line) for line in rivals), key=len, default={})
    rivals = [line for line in rivals if seen(line).keys() == fullest.keys()]
    if len({line.row for line in rivals}) < 2:
        return []
    most = share(max(_mean(line, name) for line in rivals))
    return [line for line in rivals if share(_mean(line, name)) == most]


def seen(line: Line) -> dict[tuple[tuple[str, ...], int], RunResults]:
    """A line's runs by what they learned one after the other (of domains the names tell it) and by seed."""
    return {((*(task.name for task in run.tasks), *run.class_order), run.seed): run for run in line.runs}


def costs(line: Line) -> dict[str, float]:
    """What a line's training cost, mean over runs; `seconds` by phase apart, see `Line.timed`.

    Seconds and peak memory are means over the runs on `Line.device`.
    """
    runs, timed = line.runs, line.timed.runs
    peaks = [run.peak_memory_bytes for run in timed if run.peak_memory_bytes is not None]
    out = {
        "parameters_trained": statistics.fmean(max(run.parameters_trained) for run in runs),
        "bytes_kept": statistics.fmean(run.bytes_kept[-1] for run in runs),
        "images_kept": statistics.fmean(run.images_kept for run in runs),
        "passes_per_image": statistics.fmean(run.passes_per_image for run in runs),
        "seconds": statistics.fmean(sum(run.total_seconds.values()) for run in timed),
    }
    return out | ({"peak_memory_bytes": statistics.fmean(peaks)} if peaks else {})


def summary(index: Index, lines: Sequence[Line]) -> dict[str, Any]:
    """All of it as JSON values: what the tables and curves are drawn from."""
    return {
        "title": index.title,
        "about": index.about,
        "protocol": index.protocol,
        "runs_per_row": index.runs_per_row,
        "tables": {group: [line.label for line in held] for group, held in tables(lines).items()},
        "lines": [_document(line) for line in lines],
    }


def _document(line: Line) -> dict[str, Any]:
    document: dict[str, Any] = {"label": line.label, "row": line.row, "readout": line.readout, "kind": line.kind}
    document |= {"groups": list(line.groups), "runs": len(line.runs)}
    document["figures"] = {name: _pair(line.figure(name)) for name in FIGURES}
    if line.published is not None:
        return document | {"source": line.published.source, "note": line.published.note}
    document["values"] = {name: [_figure(run, name) for run in line.runs] for name in ("a_last", "a_avg")}
    document["seconds"] = {phase: figure.mean for phase, figure in line.timed.seconds.items()}
    document["device"] = {"kind": line.device, "runs": len(line.timed.runs)}
    document["costs"] = costs(line)
    document["curve"] = [_pair(figure) for figure in line.group.curve]
    return document


def _line(name: str, row: RowRecord, readout: str, own: bool, runs: list[RunResults]) -> Line:
    method = str(runs[0].config.get("method", {}).get("name", runs[0].method))
    kind: Kind = "measured"
    group: Group = "none" if readout in WITHOUT_CLASS_STATISTICS else "statistics"
    if any(run.images_kept for run in runs):
        kind, group = "yardstick", "both"
    elif method == NO_ADAPTATION:
        kind, group = "no adaptation", "both"
    told = row.group.get(readout) if isinstance(row.group, dict) else row.group
    group = told or group
    groups: tuple[Group, ...] = ("none", "statistics") if group == "both" else (group,)
    shown = "" if readout == "default" else readout
    other = f"{name}, {readout}" if " " in name else f"{name}+{readout}"
    return Line(name if own else other, name, shown, kind, groups, tuple(runs))


def _device(run: RunResults) -> str:
    """Without number and name: "cuda (NVIDIA H200)" and "cuda:1" are "cuda"."""
    return run.machine.device.split()[0].split(":")[0]


def _figure(run: RunResults, name: str) -> float | None:
    if name == "task_id":
        return run.task_id_accuracy[-1]
    if name == "lost":
        return None if run.task_il is None or run.a_last is None else run.task_il - run.a_last
    value: float | None = getattr(run, name)
    return value


def _rank(line: Line) -> float:
    """A last; of publications that give no other, as a mean over tasks."""
    return _mean(line, "a_last" if line.figure("a_last") else "a_last_tasks")


def _mean(line: Line, name: str) -> float:
    figure = line.figure(name)
    return figure.mean if figure else -1.0


def _pair(figure: Figure | None) -> dict[str, float | None] | None:
    return None if figure is None else {"mean": figure.mean, "deviation": figure.deviation}
