"""`duallora report`: the page again, from the results in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duallora.cli.options import AsJson, Debug
from duallora.cli.output import Answer, counted
from duallora.files import user_path


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=user_path, help="Folder of a run, or one that holds several.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", parser=user_path, help="The page; DIR/report.html by default."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Write one HTML page about the runs in a folder.

    Example: duallora report runs/demo
    """
    from duallora.report import collect_runs, write_report

    runs = collect_runs(folder)
    path = write_report(runs, out or folder)
    document = {"report": str(path), "runs": len(runs), "methods": sorted({run.method for run in runs})}
    told = f"{path}: {counted(len(runs), 'results file')}"
    return Answer(document, lambda console: console.print(told, soft_wrap=True))
