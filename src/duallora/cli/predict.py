"""`duallora predict`: answers for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duallora.cli.options import AsJson, Debug, Device, Model, Weights
from duallora.cli.output import Answer, percent, shown_in_a_cell, tell_skipped
from duallora.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.answers import Prediction, SkippedImage


def predict(
    model: Model,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", parser=user_path, help="Image files, or folders of them.")
    ],
    device: Device = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Say what images show: label, confidence, task.

    And whether each lies where the training images lie (known). Files that cannot be read are skipped and named.

    Example: duallora predict zoo/ photo.jpg more_photos/
    """
    from duallora.artefact import read_manifest
    from duallora.errors import DualLoRAError

    read_manifest(model)  # a wrong folder is told at once
    readable, skipped = readable_images(images)
    if not readable:
        reasons = "; ".join(f"{image.path}: {image.reason}" for image in skipped[:5])
        raise DualLoRAError(f"none of {len(skipped)} image(s) can be read: {reasons}")
    from duallora.learner import Learner

    predictions = Learner.load(model, device=device, weights=weights).predict(readable)
    tell_skipped(skipped)
    document = {
        "predictions": [prediction.model_dump(mode="json") for prediction in predictions],
        "skipped": [image.model_dump(mode="json") for image in skipped],
    }
    return Answer(document, lambda console: _show(console, predictions))


def readable_images(paths: Sequence[Path]) -> tuple[list[Path], list[SkippedImage]]:
    """The images that can be decoded among files and in folders (there, not the hidden ones), and the rest."""
    from duallora.answers import SkippedImage
    from duallora.data.folder import files_below
    from duallora.data.images import UnreadableImage, check

    readable: list[Path] = []
    skipped: list[SkippedImage] = []
    for path in paths:
        found = list(files_below(path)) if path.is_dir() else [(path, "")]
        if not found:
            skipped.append(SkippedImage(path=str(path), reason="is a folder without images"))
        for file, problem in found:
            if problem:
                skipped.append(SkippedImage(path=str(file), reason=problem))
                continue
            try:
                check(file)
            except UnreadableImage as error:
                skipped.append(SkippedImage(path=str(file), reason=error.reason))
            else:
                readable.append(file)
    return readable, skipped


def _show(console: Console, predictions: Sequence[Prediction]) -> None:
    from rich.table import Table

    table = Table("image", "label", "confidence %", "task", "known")
    table.columns[2].justify = "right"
    for found in predictions:
        known = {True: "yes", False: "no", None: "-"}[found.known]
        table.add_row(shown_in_a_cell(found.path or ""), found.label, percent(found.confidence), found.task, known)
    console.print(table)
