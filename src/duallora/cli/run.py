"""`duallora run`: one method through one stream, as a file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duallora.cli.options import AsJson, Debug, Redo, Settings
from duallora.cli.output import Answer, percent, say, tell_skipped
from duallora.cli.tables import print_runs
from duallora.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.evaluation.results import RunResults


def run(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or the name of a shipped one: digits, cifar100-10.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", parser=user_path, help="Folder of the run.")],
    settings: Settings = None,
    redo: Redo = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Take a method through a stream of tasks.

    It is measured after each task. A run that was interrupted goes on after its last finished task.

    Example: duallora run configs/digits.yaml --out runs/slda --set method.name=slda
    """
    from duallora.config import load_config

    chosen = load_config(config, settings or ())
    from duallora.evaluation.runner import run as run_stream
    from duallora.report import collect_runs, write_report

    finished = not redo and (out / "results.json").is_file()
    results = run_stream(chosen, out, redo=redo)
    if finished:
        say(f"'{out}' was finished already and is not run again, whatever became of its images; --redo starts over")
    page = write_report(collect_runs(out), out)
    tell_skipped(results.skipped)
    return Answer(results.document(), lambda console: _show(console, results, out, page))


def _show(console: Console, results: RunResults, out: Path, page: Path) -> None:
    from rich.table import Table

    console.print("Accuracy on each task (across) after each task (down), per cent:")
    matrix = Table()
    matrix.add_column("after")
    for task in results.tasks:
        matrix.add_column(task.name, justify="right")
    for task, row in zip(results.tasks, results.accuracy_matrix, strict=False):
        matrix.add_row(task.name, *[percent(value) for value in row])
    console.print(matrix)
    print_runs(console, [results])
    console.print(f"{out / 'results.json'}\n{page}", soft_wrap=True)
