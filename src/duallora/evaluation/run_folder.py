"""The folder of a run: whose it is, of what it holds half, that nobody else works in it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from duallora.config import RunConfig
from duallora.data.imageset import ImageSet
from duallora.errors import DualLoRAError
from duallora.files import alone_in, writing
from duallora.stream import TaskStream
from duallora.training.settings import INDIFFERENT

REDO = "start over with --redo"  # a bench says which of its runs


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder, which is made; where nothing comes of it, no trace is left.

    Raises:
        DualLoRAError: it is a file, cannot be written, or another run works in it.
    """
    if out.exists() and not out.is_dir():
        raise DualLoRAError(f"'{out}' is a file; give a folder with --out")
    made = [place for place in (out, *out.parents) if not place.exists()]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(out, wait=False) as free:
            if not free:
                raise DualLoRAError(f"another run works in '{out}' now; wait for it, or give another --out")
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty: something came of it
            for place in made:
                place.rmdir()


def check_folder(config: RunConfig, out: Path, resume: bool, redo: bool) -> None:
    """Raise DualLoRAError unless the folder is free, or holds this run, or any run where it may be done over."""
    held = out / "config.json"
    if held.exists():
        try:
            same = _experiment(RunConfig.model_validate_json(held.read_text())) == _experiment(config)
        except ValueError:
            same = False
        if not redo and not (same and resume):
            which = "a run already" if same else "a run of another configuration"
            raise DualLoRAError(f"'{out}' holds {which}; give another --out, or {REDO}")
    elif any(entry.name != "images.json" and not _cut_off(entry) for entry in out.iterdir()):  # broken off as it began
        raise DualLoRAError(f"'{out}' exists and is no run of duallora; give another --out")


def _cut_off(entry: Path) -> bool:
    """Whether it is a file that was being written when its process was killed."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


def _experiment(config: RunConfig) -> RunConfig:
    """A config without what makes no difference to what is measured."""
    training = config.training.model_copy(update=dict.fromkeys(INDIFFERENT))
    return config.model_copy(update={"training": training})


def images_of(stream: TaskStream, tests: Sequence[ImageSet]) -> list[dict[str, str]]:
    """Of the images of each task."""
    return [
        {"name": task.name, "train": task.train.fingerprint(), "test": test.fingerprint()}
        for task, test in zip(stream, tests, strict=True)
    ]


def check_images(out: Path, images: list[dict[str, str]]) -> None:
    """Raise DualLoRAError where half a run was on other images: figures of both would stand in one matrix."""
    try:
        held = json.loads((out / "images.json").read_bytes())
    except (OSError, ValueError):
        return  # nothing was begun, or by a version that did not write it
    if held != images and (out / "steps").exists():
        known = {(task.get("name"), task.get("train"), task.get("test")) for task in held if isinstance(task, dict)}
        changed = [task["name"] for task in images if tuple(task.values()) not in known]
        which = f" (task '{changed[0]}')" if changed else ""
        raise DualLoRAError(
            f"'{out}' holds half a run, and its images have changed since{which}; {REDO}, or give another --out"
        )


def clear(out: Path) -> None:
    """Remove an earlier run from the folder; results first, the configuration last: that makes it ours."""
    (out / "results.json").unlink(missing_ok=True)  # first: what is left of a run must not look like a whole one
    for name in ("checkpoints", "readouts", "steps"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("report.html", "images.json", "config.json"):
        (out / name).unlink(missing_ok=True)
