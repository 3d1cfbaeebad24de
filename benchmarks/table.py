"""A Markdown table from result files: mean and deviation over class orders."""

from __future__ import annotations

import statistics
from pathlib import Path

from duallora.evaluation.results import RunResults

COLUMNS = {
    "a_last": "A last",
    "a_avg": "A avg",
    "forgetting": "forgetting",
    "task_il": "task given",
    "task_id": "task found",
}


def figure(run: RunResults, name: str) -> float | None:
    """One figure of a run."""
    if name == "task_id":
        return run.task_id_accuracy[-1]
    value: float | None = getattr(run, name)
    return value


def spread(values: list[float | None]) -> str:
    """ "mean ± deviation" in percent, over the runs that have the figure."""
    there = [100 * v for v in values if v is not None]
    if not there:
        return "-"
    return f"{statistics.mean(there):.1f}" + (f" ± {statistics.stdev(there):.1f}" if len(there) > 1 else "")


def groups(results: Path) -> dict[tuple[str, str], list[RunResults]]:
    """(row, displayed method) -> its runs over the orders."""
    found: dict[tuple[str, str], list[RunResults]] = {}
    for path in sorted(results.rglob("results.json")):
        run = RunResults.load(path)
        found.setdefault((path.relative_to(results).parts[0], run.method), []).append(run)
    return found


def write_table(results: Path, title: str) -> str:
    """The table of a results folder, best `a_last` first; also written to <results>/table.md."""
    held = groups(results)
    lines = [f"# {title}", ""]
    if held:
        any_run = next(iter(held.values()))[0]
        train, test = sum(t.train_images for t in any_run.tasks), sum(t.test_images for t in any_run.tasks)
        lines += [
            f"{len(any_run.tasks)} tasks, {train} training and {test} test images in all; "
            f"backbone `{any_run.backbone.name}` (sha256 {any_run.backbone.sha256[:12]}); "
            f"{any_run.machine.cores} cores ({any_run.machine.cpu}), device {any_run.machine.device}; "
            f"{any_run.finished:%Y-%m-%d}. Percent, mean ± deviation over class orders.",
            "",
        ]
    lines += [
        "| row | method | orders | " + " | ".join(COLUMNS.values()) + " | seconds | MB kept |",
        "|" + "---|" * (5 + len(COLUMNS)),
    ]

    def rank(item: tuple[tuple[str, str], list[RunResults]]) -> float:
        return -statistics.mean(r.a_last or 0 for r in item[1])

    for (row, method), runs in sorted(held.items(), key=rank):
        figures = " | ".join(spread([figure(r, name) for r in runs]) for name in COLUMNS)
        seconds = statistics.mean(sum(r.total_seconds.values()) for r in runs)
        kept = statistics.mean(r.bytes_kept[-1] for r in runs) / 1e6
        lines.append(f"| {row} | {method} | {len(runs)} | {figures} | {seconds:.0f} | {kept:.2f} |")
    text = "\n".join(lines) + "\n"
    if held:
        (results / "table.md").write_text(text, encoding="utf-8")
    return text
