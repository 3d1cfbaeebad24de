"""`duallora bench`: a grid of methods and class orders, resumed after anything, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duallora.cli.options import AsJson, Debug, Settings
from duallora.cli.output import Answer, percent
from duallora.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.bench.cells import Cell, Grid
    from duallora.bench.run import Outcome, Plan


def bench(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="YAML file, or the name of a shipped suite.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=user_path, help="The suite's folder is made in it.")
    ] = Path("runs"),
    source: Annotated[
        str | None, typer.Option("--source", metavar="SRC", help="Where the images are: npz:FILE, folder:PATH, a name.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Runs at once, each a process.", min=1)] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ROW", help="Run this row and that without adaptation; may be repeated."),
    ] = None,
    orders: Annotated[
        int | None, typer.Option("--orders", metavar="N", help="Run the first N class orders.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, what is there of them and how long they may take.")
    ] = False,
    redo: Annotated[
        list[str] | None,
        typer.Option("--redo", metavar="ROW/ORDER", help="Start this run (ROW: all of the row) over; may be repeated."),
    ] = None,
    settings: Settings = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            "--publish", metavar="DIR", parser=user_path, help="Copy results there, without a word of where it ran."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="Run as near to a publication's settings as is known, and show its figures.",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Run a grid of methods and class orders.

    What is finished is not run again, and what was broken off goes on. Table, curves and costs land in DIR/SUITE.

    Example: duallora bench digits --jobs 2
    """
    from duallora.bench.cells import chosen_cells, make_grid, named_cells
    from duallora.bench.load import load_suite

    name, found = load_suite(suite)
    grid = make_grid(name, found, out, protocol=protocol, source=source, overrides=settings or ())
    chosen = chosen_cells(grid, only or (), orders)
    again = named_cells(chosen, redo or ())
    from duallora.bench.run import check_failures, plan, run_bench

    if dry_run:
        planned = plan(grid, chosen, again)
        return Answer(
            _plan_document(grid, chosen, planned, jobs),
            lambda console: _show_plan(console, grid, chosen, planned, jobs),
        )
    outcome = run_bench(grid, chosen, redo=again, jobs=jobs, publish_to=publish)
    check_failures(outcome, grid.folder)
    return Answer(_document(grid, outcome), lambda console: _show(console, grid, outcome))


def _document(grid: Grid, outcome: Outcome) -> dict[str, Any]:
    cells = [
        {
            "cell": cell.name,
            "row": cell.row,
            "order": cell.order,
            "seed": cell.seed,
            "state": state.kind,
            "a_last": state.results.a_last if state.results else None,
        }
        for cell, state in outcome.states.items()
    ]
    return {
        "suite": grid.name,
        "folder": str(grid.folder),
        "report": str(grid.folder / "report.html"),
        "published": str(outcome.published) if outcome.published else None,
        "ran": outcome.ran,
        "cells": cells,
    } | outcome.document


def _show(console: Console, grid: Grid, outcome: Outcome) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from duallora.bench.aggregate import TITLES, tables
    from duallora.bench.table import shown

    for group, lines in tables(outcome.lines).items():
        table = Table(box=SIMPLE_HEAD, title=TITLES[group], title_justify="left")
        table.add_column("row", no_wrap=True)
        for head in ("runs", "A last", "A avg", "forgot", "task given", "lost", "task found"):
            table.add_column(head, justify="right")
        for line in lines:
            names = ("a_last", "a_avg", "forgetting", "task_il", "lost", "task_id")
            table.add_row(line.label, str(len(line.runs) or "-"), *[shown(line, name) for name in names])
        console.print(table)
    console.print(
        "Percent, mean ± deviation over class orders and seeds. Lost: task given less A last, so what not knowing the "
        "task costs.",
        soft_wrap=not console.is_terminal,
    )
    for path in (grid.folder / "table.md", grid.folder / "report.html", outcome.published):
        if path is not None:
            console.print(str(path), soft_wrap=True)


def _plan_document(grid: Grid, chosen: list[Cell], planned: Plan, jobs: int) -> dict[str, Any]:
    cells = []
    for cell in chosen:
        state, estimate = planned.states[cell], planned.estimates.get(cell)
        cells.append(
            {
                "cell": cell.name,
                "row": cell.row,
                "order": cell.order,
                "seed": cell.seed,
                "state": state.kind,
                "why": state.why,
                "tasks_done": len(state.steps),
                "seconds": estimate.seconds if estimate else 0.0,
                "basis": estimate.basis if estimate else "",
            }
        )
    total = sum(estimate.seconds for estimate in planned.estimates.values())
    return {
        "suite": grid.name,
        "folder": str(grid.folder),
        "cells": cells,
        "seconds": total / jobs,
        "jobs": jobs,
        "data": planned.data,
    }


def _show_plan(console: Console, grid: Grid, chosen: list[Cell], planned: Plan, jobs: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from duallora.report.numbers import seconds

    table = Table(box=SIMPLE_HEAD, title=f"{grid.suite.title}: {grid.folder}", title_justify="left")
    for head in ("cell", "state", "A last", "time left", "estimated from"):
        table.add_column(head, justify="right" if head in ("A last", "time left") else "left")
    for cell in chosen:
        state, estimate = planned.states[cell], planned.estimates.get(cell)
        kind = f"half, {len(state.steps)} tasks done" if state.kind == "half" else state.kind
        last = percent(state.results.a_last) if state.results else ""
        time = seconds(estimate.seconds) if estimate else ""
        table.add_row(cell.name, kind, last, time, state.why or (estimate.basis if estimate else ""))
    console.print(table)
    total = sum(estimate.seconds for estimate in planned.estimates.values()) / jobs
    at_once = f", {jobs} at once" if jobs > 1 else ""
    time = f": about {seconds(total)}" if planned.estimates else ""
    console.print(f"{len(planned.estimates)} of {len(chosen)} runs to go{at_once}{time}", soft_wrap=True)
    if planned.data:
        console.print(f"The data cannot be used: {planned.data}", soft_wrap=True)
