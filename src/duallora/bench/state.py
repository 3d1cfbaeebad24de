"""What is there of a cell: nothing, a part, all of it, or something that is not what the suite says."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from duallora.bench.cells import PLACES, Cell
from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.evaluation.steps import StepRecord, load_steps
from duallora.training.settings import INDIFFERENT

Kind = Literal["done", "half", "missing", "altered", "foreign"]

ALIKE = tuple(f"training.{key}" for key in INDIFFERENT)


@dataclass(frozen=True)
class State:
    """What is there of a cell.

    Attributes:
        kind: "altered" can be done over, "foreign" is not ours to touch.
        why: what is wrong with it, or "".
        results: where it is done.
        steps: where it is half done: the records of the tasks that need not be done again.
    """

    kind: Kind
    why: str = ""
    results: RunResults | None = None
    steps: tuple[StepRecord, ...] = ()


def state_of(cell: Cell) -> State:
    """Look into a cell's folder."""
    folder = cell.folder
    if (folder / "results.json").exists():
        return _finished(cell)
    if (folder / "config.json").exists():
        return _begun(cell)
    if taken := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        return State("foreign", f"'{taken}' is a file")
    if others := foreign(folder):
        return State("foreign", f"'{folder}' holds other things ('{others[0]}')")
    return State("missing")


def check_states(states: Mapping[Cell, State], redo: Sequence[Cell] = ()) -> None:
    """Raise DualLoRAError, naming the cells and what to type, if some can neither be kept nor gone on with."""
    for cell, state in states.items():
        if state.kind == "foreign":
            raise DualLoRAError(f"{cell.name}: {state.why}; move it away, or give another --out")
    altered = [(cell, state) for cell, state in states.items() if state.kind == "altered" and cell not in redo]
    if not altered:
        return
    told = "; ".join(f"{cell.name}: {state.why}" for cell, state in altered[:3])
    more = f"; and {len(altered) - 3} more (--dry-run shows all)" if len(altered) > 3 else ""
    cure = " ".join(f"--redo {shlex.quote(name)}" for name in _names([cell for cell, _ in altered], list(states)))
    raise DualLoRAError(f"{told}{more}. Start over with {cure}, or give another --out")


def _names(some: Sequence[Cell], cells: Sequence[Cell]) -> list[str]:
    """Cells by name, or their row's where it is all of the row."""
    rows = Counter(cell.row for cell in cells)
    whole = {row for row, count in Counter(cell.row for cell in some).items() if rows[row] == count > 1}
    return list(dict.fromkeys(cell.row if cell.row in whole else cell.name for cell in some))


def foreign(folder: Path) -> list[str]:
    """Names in a folder without a configuration that no run leaves; a file broken off while it was written is ours."""
    if not folder.is_dir():
        return []
    ours = ("steps", "checkpoints", "readouts", "images.json", "results.json", "report.html")
    return sorted(p.name for p in folder.iterdir() if p.name not in ours and not p.name.endswith(".tmp"))


def _finished(cell: Cell) -> State:
    path = cell.folder / "results.json"
    try:
        results = RunResults.load(path)
        others = {p.parent.name: (p, RunResults.load(p)) for p in sorted(cell.folder.glob("readouts/*/results.json"))}
    except DualLoRAError as error:
        return State("altered", str(error).split(";")[0])
    for place, found in ((path, results), *others.values()):
        change = difference(found.config, cell.config, finished=True)
        if change:
            return State("altered", f"'{place}' is of other settings: {change}")
    if lacking := _readouts(cell) - {*others, results.config["method"].get("readout")}:
        return State("altered", f"'{cell.folder}' lacks the read-out '{min(lacking)}'")
    if results.on_former_weights:
        return State("altered", f"'{path}' is of former weights of the bundled backbone")
    return State("done", results=results)


def _readouts(cell: Cell) -> set[str]:
    """All read-outs that a run of the cell's method leaves."""
    from duallora.methods.registry import get_method  # imports torch

    return set(get_method(cell.config.method.name).readouts)


def _begun(cell: Cell) -> State:
    path = cell.folder / "config.json"
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return State("altered", f"'{path}' cannot be read")
    change = difference(held, cell.config, finished=False)
    if change:
        return State("altered", f"'{cell.folder}' holds half a run of other settings: {change}")
    try:
        steps = load_steps(cell.folder / "steps")
    except DualLoRAError as error:
        return State("altered", str(error).split(";")[0])
    return State("half", steps=tuple(steps[: tasks_done(cell.folder, len(steps))]))


def tasks_done(folder: Path, recorded: int | None = None) -> int:
    """After which task a run that was broken off goes on: the last whose model was saved, and whose record is there."""
    steps = len(load_steps(folder / "steps")) if recorded is None else recorded
    saved = [int(path.name[5:]) for path in (folder / "checkpoints").glob("task-[0-9][0-9][0-9]")]
    return max((number for number in saved if number <= steps), default=0)


def difference(held: Any, config: RunConfig, *, finished: bool) -> str | None:
    """Where a stored configuration departs from the suite's: the first key with both values; None if nowhere.

    Args:
        held: as in config.json or results.json.
        config: as the suite says.
        finished: whether only what was measured counts: options with their defaults written out, idle ones apart.
    """
    try:
        found, wanted = (_settled(data, finished) for data in (held, config.model_dump(mode="json")))
    except (DualLoRAError, ValidationError, TypeError, KeyError, AttributeError):
        return "this version of duallora cannot read its configuration"
    for key in (*wanted, *found):
        if key in ALIKE or (finished and key in PLACES):
            continue
        if found.get(key) != wanted.get(key):
            return f"{key} is {_shown(found.get(key))}, the suite says {_shown(wanted.get(key))}"
    return None


def _settled(data: Any, finished: bool) -> dict[str, Any]:
    """Flat keys of a configuration, with the defaults of the run (and of the method's options) written out."""
    from duallora.methods.registry import get_method  # imports torch

    method = {key: value for key, value in data["method"].items() if key != "readout"}
    settled = RunConfig.model_validate(data | {"method": method}).model_dump(mode="json")
    options = settled["method"]["options"]
    if finished:
        checked = get_method(settled["method"]["name"]).Config.model_validate(options)
        options = checked.model_dump(mode="json", exclude=set(checked.idle()))
    settled["method"]["options"] = {}
    flat = {f"method.options.{key}": value for key, value in json.loads(json.dumps(options)).items()}
    for part, value in settled.items():
        flat |= {f"{part}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {part: value}
    return flat


def _shown(value: Any, most: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 3]}..."
