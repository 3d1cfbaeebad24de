"""The page docs/settings.md, written from the descriptions of the configuration's fields.

`python -m duallora.settings_page > docs/settings.md` renews it.
"""

from __future__ import annotations

from duallora.config import BackboneChoice, RunConfig, StreamConfig
from duallora.methods.registry import get_method, list_methods
from duallora.schema import settings_table
from duallora.training.settings import TrainingSettings

INTRODUCTION = """\
# Settings

Every key of a run. A YAML file has them as it is nested (`configs/digits.yaml` is one), the command line as
`--set training.epochs=3`, a [suite](benchmarks.md#suites) under `base` and in its rows; [Python's](python.md)
`Learner.create(config={"rank": 4}, training={"epochs": 3})` takes the options of the method and those of `training` by
their names. `duallora learn` takes method, backbone, training, seed and device; the stream is the folder. What a method
recommends goes before the defaults here where nothing is set.

This page is written by `python -m duallora.settings_page > docs/settings.md`.
"""

READOUT = "what answers where no other is asked for ([read-outs](methods.md#read-outs))"


def settings_page() -> str:
    """docs/settings.md as it should be now."""
    parts = [INTRODUCTION, "## The run\n", _table_without_parts()]
    for heading, model, prefix in (
        ("The stream", StreamConfig, "stream."),
        ("The backbone", BackboneChoice, "backbone."),
        ("Training", TrainingSettings, "training."),
    ):
        parts += [f"\n## {heading}\n", settings_table(model, prefix)]
    parts.append("\n## Options of the methods\n")
    for name in list_methods():
        method = get_method(name)
        recommended = ", ".join(f"`training.{key}={value}`" for key, value in method.recommended.items())
        parts.append(f"### {name}\n")
        if recommended:
            parts.append(f"Recommends {recommended}.\n")
        if method.Config.model_fields:
            parts.append(settings_table(method.Config, "method.options.", {"readout": READOUT}) + "\n")
        else:
            parts.append("No options.\n")
    return "\n".join(parts)


def _table_without_parts() -> str:
    head, rule, *rows = settings_table(RunConfig).splitlines()
    own = ("stream.", "backbone.", "training.")
    return "\n".join([head, rule, *[row for row in rows if not row.startswith(tuple(f"| `{part}" for part in own))]])


if __name__ == "__main__":
    print(settings_page(), end="")
