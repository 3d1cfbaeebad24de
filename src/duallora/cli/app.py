"""All commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from duallora.cli.bench import bench
from duallora.cli.demo import demo
from duallora.cli.evaluate import evaluate
from duallora.cli.inspect import inspect
from duallora.cli.learn import learn
from duallora.cli.methods import methods
from duallora.cli.predict import predict
from duallora.cli.report import report
from duallora.cli.run import run

app = typer.Typer(
    name="duallora",
    help="Teach a vision transformer new classes, task after task, without keeping the images of earlier tasks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (demo, run, bench, learn, predict, evaluate, inspect, methods, report):
    app.command(command.__name__)(command)


def _version(asked: bool) -> None:
    if asked:
        from duallora.versions import duallora_version

        typer.echo(f"duallora {duallora_version()}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What stands before any command."""


common.__doc__ = None  # the application's own help is shown, not this function's
