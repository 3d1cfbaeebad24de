"""The tables in Markdown; no figure in them is typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duallora.bench.aggregate import (
    FIGURES,
    TITLES,
    WITHOUT_CLASS_STATISTICS,
    Line,
    best,
    collect,
    costs,
    tables,
)
from duallora.bench.index import Index
from duallora.evaluation.results import RunResults
from duallora.report.numbers import seconds, size
from duallora.report.summary import Figure

BRIEF = ("a_last", "a_avg", "forgetting", "task_il", "task_id")
OWN = ("a_last", "a_avg", "forgetting", "task_il")
TIMED = (
    "Seconds and peak memory are those of the device named, of the process on a processor and of what torch holds on a "
    "GPU: compare them within one kind of device."
)
KEPT = "Bytes kept are those of a training with all that its read-outs need; one alone may need less."
KINDS = {"yardstick": " (yardstick: keeps images)", "no adaptation": " (no adaptation)"}


def folder_table(folder: Path, *, brief: bool = False) -> str:
    """The tables of a folder of results, without a heading."""
    index = Index.load(folder)
    return markdown(index, collect(folder, index), brief=brief)


def readouts_table(folder: Path) -> str:
    """One line per training, in the suite's order, with a column per read-out: what a training is worth to each."""
    index = Index.load(folder)
    measured = [line for line in collect(folder, index) if line.runs]
    if not measured:
        return "No run has finished yet.\n"
    found = {line.readout for line in measured if line.readout}
    read = [r for r in WITHOUT_CLASS_STATISTICS if r in found] + sorted(found - {*WITHOUT_CLASS_STATISTICS})
    heads = ["row", "runs", "read-out", *[FIGURES[name] for name in OWN], *[f"by {name}" for name in read]]
    rows = []
    for name in index.rows:
        held = {line.readout: line for line in measured if line.row == name}
        if not held:
            continue
        own = next((line for line in held.values() if line.label == name), next(iter(held.values())))
        figures = [percent(own.figure(figure)) for figure in OWN]
        by_readout = [percent(held[r].figure("a_last")) if r in held else "-" for r in read]
        rows.append([_cell(name) + KINDS.get(own.kind, ""), str(len(own.runs)), own.readout, *figures, *by_readout])
    about = facts([run for line in measured for run in line.runs])
    told = "A row's figures are by its own read-out; what others make of the same training is its A last by each."
    return f"{about} {told}\n\n{pipe_table(heads, rows)}\n"


def variants_table(folder: Path) -> str:
    """A last of rows named "method, variant": a line per method, a column per variant.

    Once by each row's own read-out, then for both tables of a suite by the best that stands there, which is named.
    """
    index = Index.load(folder)
    measured = [line for line in collect(folder, index) if line.runs]
    own = [line for line in measured if line.label == line.row]
    if not own:
        return "No run has finished yet.\n"
    alone = [f"`{line.row}`: {percent(line.figure('a_last'))}." for line in own if ", " not in line.row]
    about = " ".join([facts([run for line in own for run in line.runs]), "A last.", *alone])
    parts = [about, "**By own read-out**", _variants(index, own)]
    for group, held in tables(measured).items():
        parts += [f"**{TITLES[group]}**, each by the best of its read-outs", _variants(index, held, named=True)]
    return "\n\n".join(parts) + "\n"


def _variants(index: Index, lines: Sequence[Line], named: bool = False) -> str:
    """A table of each row's first line, of lines with the best first; `named` says by which read-out."""
    pairs = {name: name.partition(", ")[::2] for name in index.rows if ", " in name}
    variants, rows = list(dict.fromkeys(variant for _, variant in pairs.values())), []
    best: dict[str, Line] = {}
    for line in lines:
        best.setdefault(line.row, line)
    for method in dict.fromkeys(method for method, _ in pairs.values()):
        held = [best.get(f"{method}, {variant}") for variant in variants]
        figures = [line.figure("a_last") if line else None for line in held]
        most = max((figure.mean for figure in figures if figure), default=None)
        if most is None:
            continue
        told = [
            percent(figure) + (f" {line.readout}" if named and line and line.readout else "")
            for figure, line in zip(figures, held, strict=True)
        ]
        bold = [f"**{t}**" if f and f.mean == most else t for f, t in zip(figures, told, strict=True)]
        rows.append([_cell(method), *bold])
    return pipe_table(["row", *variants], rows)


def markdown(index: Index, lines: Sequence[Line], *, brief: bool = False) -> str:
    """The facts, a table for what keeps class statistics and one for what keeps none, the costs, the sources.

    Args:
        index: of the suite.
        lines: from `collect`.
        brief: each row by its best read-out alone, fewer columns, and the time and size in the same table.
    """
    measured = [line for line in lines if line.runs]
    if not measured:
        return "No run has finished yet.\n"
    numbers = numbered(lines)
    runs = [run for line in measured for run in line.runs]
    about = [] if brief else [index.about]
    parts = [facts(runs), *filter(None, [*about, not_whole(index, runs), departures(index)]), *_protocol(index)]
    grouped = tables(lines)
    if brief:
        parts[0] += " Each row by that of its read-outs whose A last is highest."
    for group, held in grouped.items():
        if len(grouped) > 1 or not brief:
            parts.append(f"**{TITLES[group]}**")
        parts.append(_accuracies(held, numbers, brief))
    if not brief:
        parts += [f"**Cost**, mean over runs. {TIMED} {KEPT}", _costs(measured)]
    parts += [f"[{number}] {source}" for source, number in numbers.items()]
    return "\n\n".join(parts) + "\n"


def facts(runs: Sequence[RunResults]) -> str:
    """What the runs have in common, and on what they ran."""
    tasks = _range([len(run.tasks) for run in runs])
    train = _range([sum(task.train_images for task in run.tasks) for run in runs])
    test = _range([sum(task.test_images for task in run.tasks) for run in runs])
    machines = sorted({f"{r.machine.device}, {r.machine.threads} of {r.machine.cores} cores" for r in runs})
    backbones = sorted({f"`{r.backbone.name}` (sha256 {r.backbone.sha256[:12]})" for r in runs})
    return (
        f"{tasks} tasks, {train} training and {test} test images in all; backbone {', '.join(backbones)}; "
        f"{runs[0].machine.cpu}, device {'; '.join(machines)}; {max(r.finished for r in runs):%Y-%m-%d}. "
        "Percent, mean ± deviation over class orders and seeds."
    )


def not_whole(index: Index, runs: Sequence[RunResults]) -> str:
    """That runs had other images than the data set has as it is published; empty where they had all of them."""
    found = {sum(task.train_images + task.test_images for task in run.tasks) for run in runs} - {index.images}
    if index.images is None or not found:
        return ""
    counts = " and ".join(f"{count:,}" for count in sorted(found))
    return (
        f"Runs here had {counts} images; as published the data set has {index.images:,}, and figures of others are of "
        "all of them."
    )


def departures(index: Index) -> str:
    """What was set by hand for all runs; empty where nothing was."""
    return f"Set by hand for all runs: {', '.join(f'`{text}`' for text in index.changed)}." if index.changed else ""


def _range(counts: Sequence[int]) -> str:
    """One number, or the least and the most."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def percent(figure: Figure | None, decimals: int = 1) -> str:
    """Mean and deviation in percent.

    >>> percent(Figure(0.5, 0.0123)), percent(Figure(0.82351), 2), percent(None)
    ('50.0 ± 1.2', '82.35', '-')
    """
    if figure is None:
        return "-"
    mean, deviation = 100 * figure.mean, figure.deviation
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {100 * deviation:.{decimals}f}")


def shown(line: Line, name: str) -> str:
    """One of a line's figures: what others published with both of the decimals that their tables have."""
    return percent(line.figure(name), 2 if line.published else 1)


def _accuracies(lines: Sequence[Line], numbers: dict[str, int], brief: bool) -> str:
    columns = BRIEF if brief else tuple(FIGURES)
    leaders = {name: best(lines, name) for name in ("a_last", "a_avg")}
    if brief:
        lines = _best_of_rows(lines)
    devices = {line.device for line in lines if line.runs}
    heads = ["row", "read-out", "runs", *[FIGURES[name] for name in columns], *(["time", "kept"] if brief else [])]
    rows = []
    for line in lines:
        label = _cell(line.label) + KINDS.get(line.kind, "")
        figures = [shown(line, name) for name in columns]
        figures = [f"**{x}**" if line in leaders.get(n, ()) else x for n, x in zip(columns, figures, strict=True)]
        if line.published is not None:
            rows.append([f"{label} [{numbers[source_of(line)]}]", "", "-", *figures, *(["-", "-"] if brief else [])])
            continue
        cost = costs(line)
        time = _plain(seconds(cost["seconds"])) + (f" ({line.device})" if len(devices) > 1 else "")
        end = [time, _plain(size(cost["bytes_kept"]))] if brief else []
        rows.append([label, line.readout, str(len(line.runs)), *figures, *end])
    return pipe_table(heads, rows)


def _best_of_rows(lines: Sequence[Line]) -> list[Line]:
    """The first line of each row, of lines that stand best first; published ones all."""
    first: dict[str, Line] = {}
    for line in lines:
        first.setdefault(line.label if line.published else line.row, line)
    return list(first.values())


def _costs(lines: Sequence[Line]) -> str:
    """One line per training: its read-outs share what it cost."""
    first = {line.row: line for line in reversed(lines)}
    phases = list(dict.fromkeys(phase for line in first.values() for phase in line.timed.seconds))
    heads = ["row", "device", *[f"{phase}, s" for phase in phases], "all, s", "peak memory"]
    heads += ["parameters trained", "bytes kept", "images kept", "passes per image"]
    rows = []
    for line in lines:
        if first[line.row] is not line:
            continue
        cost, spent = costs(line), line.timed.seconds
        rows.append(
            [
                _cell(line.row),
                device_of(line),
                *[f"{spent[phase].mean:.1f}" if phase in spent else "-" for phase in phases],
                f"{cost['seconds']:.1f}",
                _plain(size(cost["peak_memory_bytes"])) if "peak_memory_bytes" in cost else "-",
                f"{cost['parameters_trained']:,.0f}",
                f"{cost['bytes_kept']:,.0f}",
                f"{cost['images_kept']:,.0f}",
                f"{cost['passes_per_image']:.3g}",
            ]
        )
    return pipe_table(heads, rows)


def device_of(line: Line) -> str:
    """What a line's seconds and memory were measured on, and in how many of its runs where it was not all.

    A run's other figures hold for any device.
    """
    timed = len(line.timed.runs)
    return line.device if timed == len(line.runs) else f"{line.device}, {timed} of {len(line.runs)} runs"


def _protocol(index: Index) -> list[str]:
    if index.protocol is None:
        return []
    told = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in index.protocol.items())
    return [f"Protocol of the published figures: {told}"]


def source_of(line: Line) -> str:
    """Where a published line comes from."""
    assert line.published is not None
    return line.published.source + (f" ({line.published.note})" if line.published.note else "")


def numbered(lines: Sequence[Line]) -> dict[str, int]:
    """The sources of published lines, each once, with the number that lines bear."""
    return {text: n for n, text in enumerate(dict.fromkeys(source_of(line) for line in lines if line.published), 1)}


def pipe_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *["| " + " | ".join(row) + " |" for row in rows]])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")
