"""`duallora learn`: teach a model folder one more task, or make it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duallora.cli.options import AsJson, Debug, Device, Images, Settings, Weights
from duallora.cli.output import Answer, bar, counted, percent, say, tell_skipped
from duallora.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.answers import LearnReport
    from duallora.errors import DualLoRAError
    from duallora.learner import Learner


def learn(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", parser=user_path, help="Model folder; made where there is none.")
    ],
    folder: Images,
    name: Annotated[str | None, typer.Option("--name", help="Name of the task; the folder's by default.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Of a new model; duallora by default.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Of a new model; bundled, or any plain ViT of timm.")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    settings: Settings = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> Answer:
    """Teach a model the classes in a folder of images.

    The model folder is made where there is none. The images of earlier tasks are not needed.

    Example: duallora learn zoo/ animals/
    """
    from duallora.artefact import check_target, finish_interrupted
    from duallora.data import scan_classes
    from duallora.errors import DualLoRAError

    if finish_interrupted(model):
        raise DualLoRAError(
            f"the last save of '{model}' was cut off at its very end and is complete only now; see what it knows with "
            f"'duallora inspect {model}', and type this command again if '{folder}' is not among that"
        )
    check_target(model, overwrite=True)  # first what costs nothing
    images = scan_classes(folder)
    chosen, known = [*placed(device, weights), *(settings or ())], holds_model(model)
    learner = (_existing if known else _new)(model, method, backbone, chosen)
    title = learner.task_name(folder, name)
    told = f"{counted(len(images), 'image')}, {counted(len(images.classes), 'class')}"
    say(f"learning '{title}': {told}, as task {len(learner.tasks) + 1}")
    if name is None and title != folder.resolve().name:
        say(f"note: the model has a task '{folder.resolve().name}' already; what is learned now is called '{title}'")
    report = learner.learn(images, name=title)
    try:
        learner.save(model, overwrite=known)  # what is there now and was not before is somebody else's
    except DualLoRAError as error:
        raise _rescued(learner, model, error) from error
    tell_skipped(report.skipped)
    if inner := wrapped(folder, report.classes):
        say(
            f"note: the one class '{report.classes[0]}' has images in its sub-folders only; if those are the classes, "
            f"learn '{inner}' into a new model"
        )
    if same := domains(folder):
        say(
            f"note: all class folders hold the same sub-folders ({', '.join(same[:4])}); if those are the classes and "
            f"{', '.join(report.classes[:2])} their domains, learn each domain's folder as a task of a new model"
        )
    document = report.model_dump(mode="json") | {
        "model": str(model),
        "tasks": len(learner.tasks),
        "known": learner.classes,
    }
    return Answer(document, lambda console: _show(console, model, report, learner))


def _rescued(learner: Learner, model: Path, error: DualLoRAError) -> DualLoRAError:
    """The error that tells where the learned model lies, after it could not be saved to its place."""
    from duallora.errors import DualLoRAError

    place = next(p for n in range(2, 1000) if not (p := model.with_name(f"{model.name}-{n}")).exists())
    try:
        learner.save(place)
    except DualLoRAError:
        return error
    return DualLoRAError(f"{error}. What was learned is not lost: it lies in '{place}'")


def wrapped(folder: Path, classes: Sequence[str]) -> Path | None:
    """The only class folder where it looks like a folder of class folders, as archives unpack to; else None."""
    inner = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if len(classes) != 1 or len(inner) != 1:
        return None
    entries = [entry for entry in inner[0].iterdir() if not entry.name.startswith(".")]
    return inner[0] if sum(entry.is_dir() for entry in entries) > 1 and all(e.is_dir() for e in entries) else None


def placed(device: str, weights: Path | None) -> list[str]:
    """The options that say where things are, as settings; what --set says of the same comes after them, and wins."""
    told = {
        "device": None if device == "auto" else device,
        "backbone.weights": None if weights is None else str(weights),
    }
    return as_settings(told)


def as_settings(told: Mapping[str, str | None]) -> list[str]:
    """Values that options have given, as --set takes them; None where nothing was given."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in told.items() if value is not None]


def domains(folder: Path) -> list[str]:
    """The sub-folders that all class folders have where they hold nothing else, as folders of domains do."""
    held = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            held.append({e.name: e.is_dir() for e in entry.iterdir() if not e.name.startswith(".")})
    alike = len(held) > 1 and len(held[0]) > 1 and all(inner == held[0] and all(inner.values()) for inner in held)
    return sorted(held[0]) if alike else []


def holds_model(model: Path) -> bool:
    """Whether there is something to go on from; an empty folder is none."""
    return model.exists() and any(model.iterdir())


def _new(model: Path, method: str | None, backbone: str | None, settings: Sequence[str]) -> Learner:
    from duallora.config import ModelConfig, apply_overrides, checked_config
    from duallora.errors import DualLoRAError
    from duallora.learner import Learner
    from duallora.methods.registry import get_method

    named = as_settings({"method.name": method, "backbone.name": backbone})
    config = checked_config(ModelConfig, apply_overrides({}, [*settings, *named]), "learn")
    if get_method(config.method.name).cumulative:
        raise DualLoRAError(
            f"method '{config.method.name}' needs the images of all tasks at once and serves comparisons only; "
            "take --method duallora, or compare methods with duallora run"
        )
    return Learner.of(config)


def _existing(model: Path, method: str | None, backbone: str | None, settings: Sequence[str]) -> Learner:
    from duallora.artefact import load_artefact, read_manifest
    from duallora.config import ModelConfig, apply_overrides, checked_config
    from duallora.errors import DualLoRAError
    from duallora.learner import Learner

    manifest = read_manifest(model)
    for what, asked in (("method", method), ("backbone", backbone)):
        held = str(manifest.get(what, {}).get("name"))
        tag = held.rpartition(".")[2]  # of timm's weights, which may be left out
        if asked is not None and held not in (asked, f"{asked}.{tag}"):
            raise DualLoRAError(
                f"model '{model}' has the {what} '{held}', which cannot become '{asked}'; leave --{what} out, "
                "or give the folder of a new model"
            )
    free: dict[str, Any] = apply_overrides({}, settings)
    fixed = set(free) - {"training", "device"}
    if set(free.get("backbone") or {}) == {"weights"}:
        fixed -= {"backbone"}
    if fixed:
        raise DualLoRAError(
            f"model '{model}' is there already, so '{min(fixed)}' cannot be set any more; "
            "training, device and backbone.weights can, or give the folder of a new model"
        )
    changed = "training" in free
    held = load_artefact(model)[1].get("training", {}) if changed else {}  # as this version of duallora understands it
    config = checked_config(ModelConfig, apply_overrides({"training": held}, settings), "learn")
    training = config.training if changed else None
    return Learner.load(model, device=config.device, weights=config.backbone.weights, training=training)


def _show(console: Console, model: Path, report: LearnReport, learner: Learner) -> None:
    seconds = sum(report.seconds.values())
    console.print(f"learned '{report.task}' in {seconds:.0f} s: {', '.join(report.classes)}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if report.capacity:
        used = sum(report.capacity) / len(report.capacity)
        console.print(f"capacity used, mean over blocks: {bar(used)} {percent(used)} %")
    known, tasks = (counted(len(x), one) for x, one in ((learner.classes, "class"), (learner.tasks, "task")))
    console.print(f"'{model}' knows {known} of {tasks}", soft_wrap=True)
