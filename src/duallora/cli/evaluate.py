"""`duallora evaluate`: figures on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duallora.cli.options import AsJson, Debug, Device, Images, Model, Weights
from duallora.cli.output import Answer, percent, tell_skipped

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.answers import Evaluation


def evaluate(
    model: Model,
    folder: Images,
    device: Device = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Measure a model on labelled images.

    Example: duallora evaluate zoo/ held_out/
    """
    from duallora.artefact import read_manifest
    from duallora.data import scan_classes

    read_manifest(model)
    images = scan_classes(folder, minimum=1)
    from duallora.learner import Learner

    figures = Learner.load(model, device=device, weights=weights).evaluate(images)
    tell_skipped(figures.skipped)
    return Answer(figures.model_dump(mode="json"), lambda console: _show(console, figures))


def _show(console: Console, figures: Evaluation) -> None:
    from rich.table import Table

    table = Table("figure", "per cent", title=f"{figures.images} images", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("accuracy over all classes", percent(figures.accuracy))
    table.add_row("accuracy with the task given", percent(figures.task_il))
    table.add_row("task found", percent(figures.task_id_accuracy))
    table.add_row("calibration error", percent(figures.calibration_error))
    table.add_section()
    for name, share in figures.per_class.items():
        table.add_row(name, percent(share))
    console.print(table)
    if figures.task_il is None:
        console.print("No figures by task: a class of these images was learned in several tasks.", soft_wrap=True)
    elif figures.task_id_accuracy is None:
        console.print("Task found: there is but one task.", soft_wrap=True)
