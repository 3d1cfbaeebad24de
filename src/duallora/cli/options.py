"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duallora.files import user_path

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from (also: DUALLORA_DEBUG=1).")]
"""`duallora.cli.guard` looks for both in what was typed, since they matter even where the options cannot be parsed."""

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", parser=user_path, help="Model folder, as `duallora learn` makes it.")
]
Images = Annotated[
    Path, typer.Argument(metavar="FOLDER", parser=user_path, help="Images, in one sub-folder per class.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as training.epochs=3; may be repeated."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps ...")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", parser=user_path, help="The backbone's weights, where they have moved since."
    ),
]
Redo = Annotated[bool, typer.Option("--redo", help="Start over, even where results are there.")]
