"""`duallora demo`: four methods on the bundled digits, one table, one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duallora.cli.options import AsJson, Debug, Redo, Settings
from duallora.cli.output import Answer, say
from duallora.cli.tables import print_runs, summary
from duallora.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.evaluation.results import RunResults

METHODS = ("lora", "slda", "duallora", "joint")
FOLDER = Path("runs/demo")
READOUT = "quadratic"  # the one that all four share: beside a method's own it tells read-out from learning


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", parser=user_path, help="Folder of results.")] = FOLDER,
    settings: Settings = None,
    redo: Redo = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Learn digits in five tasks with four methods.

    Needs no download and at most three minutes on two cores; methods that are finished are not run again.

    Example: duallora demo --out runs/demo
    """
    from duallora.config import load_config

    configs = {name: load_config("digits", [*(settings or ()), f"method.name={name}"]) for name in METHODS}
    check_folder(out)
    from duallora.evaluation.results import RunResults
    from duallora.evaluation.runner import run
    from duallora.report import collect_runs, write_report

    rows: list[RunResults] = []
    for number, (name, config) in enumerate(configs.items(), 1):
        say(f"{name} ({number} of {len(configs)})")
        rows.append(run(config, out / name, redo=redo))
        also = out / name / "readouts" / READOUT / "results.json"
        if also.exists():
            rows.append(RunResults.load(also))
    page = write_report(collect_runs(out), out)
    document = {"report": str(page), "runs": [summary(row) for row in rows]}
    return Answer(document, lambda console: _show(console, rows, page))


def check_folder(out: Path) -> None:
    """Raise DualLoRAError where results would land among other things."""
    from duallora.errors import DualLoRAError

    if out.exists() and not out.is_dir():
        raise DualLoRAError(f"'{out}' is a file; give a folder with --out")
    if out.is_dir():
        ours = {*METHODS, "report.html"}
        foreign = sorted(
            entry.name for entry in out.iterdir() if entry.name not in ours and not entry.name.startswith(".")
        )
        if foreign:
            raise DualLoRAError(f"'{out}' holds other things ('{foreign[0]}'); give a new folder with --out")


def _show(console: Console, rows: list[RunResults], page: Path) -> None:
    print_runs(console, rows)
    console.print(f"The page with all of it: {page}", soft_wrap=True)
