"""Runs as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from duallora.cli.output import percent, size

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.evaluation.results import RunResults


def print_runs(console: Console, runs: Sequence[RunResults]) -> None:
    """One row per run: the figures that matter first, in per cent."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)  # fits 80 columns
    table.add_column("method", no_wrap=True)
    for head in ("A last", "A avg", "forgot", "task given", "task found", "trained", "kept", "s"):
        table.add_column(head, justify="right", no_wrap=len(head) < 8)
    for run in runs:
        table.add_row(
            run.method,
            percent(run.a_last),
            percent(run.a_avg),
            percent(run.forgetting),
            percent(run.task_il),
            percent(run.task_id_accuracy[-1]),
            f"{max(run.parameters_trained):,}",
            f"{size(run.bytes_kept[-1])} + {run.images_kept:,} images" if run.images_kept else size(run.bytes_kept[-1]),
            f"{sum(run.total_seconds.values()):.0f}",
        )
    console.print(table)
    console.print(
        "Per cent of the test images. A last: after the last task. A avg: mean over the steps. Forgot: best "
        "earlier accuracy less the last. Task given: A last with the true task told. Task found: task named rightly. "
        "Trained: parameters. Kept: beside the backbone. s: seconds.",
        soft_wrap=not console.is_terminal,
    )


def summary(run: RunResults) -> dict[str, Any]:
    """The main figures of a run as JSON values."""
    return {
        "method": run.method,
        "a_last": run.a_last,
        "a_avg": run.a_avg,
        "forgetting": run.forgetting,
        "task_il": run.task_il,
        "task_id_accuracy": run.task_id_accuracy[-1],
        "parameters_trained": max(run.parameters_trained),
        "bytes_kept": run.bytes_kept[-1],
        "images_kept": run.images_kept,
        "seconds": sum(run.total_seconds.values()),
    }
