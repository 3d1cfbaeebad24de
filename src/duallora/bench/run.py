"""The whole of a bench: look, run what is missing, write what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duallora.bench.aggregate import Line, collect, summary
from duallora.bench.alike import check_alike, extent
from duallora.bench.cells import Cell, Grid
from duallora.bench.estimate import Estimate, estimates
from duallora.bench.index import Index
from duallora.bench.lock import holding
from duallora.bench.page import page
from duallora.bench.processes import LOGS, Failure, run_cells
from duallora.bench.progress import Board, tell
from duallora.bench.publish import check_target, publish
from duallora.bench.state import State, check_states, state_of
from duallora.bench.table import markdown
from duallora.config import StreamConfig
from duallora.errors import DualLoRAError
from duallora.files import write_json_atomic, write_text_atomic


@dataclass(frozen=True)
class Plan:
    """What a bench would do: every cell's state, and an estimate for each of those that are to be run."""

    states: Mapping[Cell, State]
    estimates: Mapping[Cell, Estimate]
    data: str | None


@dataclass(frozen=True)
class Outcome:
    """What a bench has done.

    Attributes:
        states: of all cells of the grid, now.
        failed: cells that went wrong in this session.
        ran: how many were run in it, those included.
        lines: of the tables.
        document: summary.json.
        published: folder of the copies, where they were asked for.
    """

    states: Mapping[Cell, State]
    failed: Mapping[Cell, Failure]
    ran: int
    lines: Sequence[Line]
    document: dict[str, Any]
    published: Path | None


def plan(grid: Grid, chosen: Sequence[Cell], redo: Sequence[Cell] = ()) -> Plan:
    """Look, and touch nothing: no data is downloaded, no file written, no altered cell refused."""
    states = {cell: state_of(cell) for cell in grid.cells}
    todo = _todo(chosen, states, redo)
    missing: list[str] = []

    def images(stream: StreamConfig) -> int | None:
        try:
            return _look_at(stream, download=False)[1]
        except DualLoRAError as error:
            missing.append(str(error))
            return None

    times = estimates(todo, _fresh(states, redo), _device(grid), images)
    return Plan(states, times, missing[0] if missing else None)


def run_bench(
    grid: Grid, chosen: Sequence[Cell], *, redo: Sequence[Cell] = (), jobs: int = 1, publish_to: Path | None = None
) -> Outcome:
    """Run the chosen cells that are not done, then write the tables, the page and the summary of all that are.

    Every cell runs in a process of its own, one at a time too: the peak of memory is a process's, so that cells that
    shared one would all show that of the largest so far.

    Args:
        grid: the suite.
        chosen: cells to run; those that are done are left as they are.
        redo: cells of those to start over.
        jobs: cells at once; the seconds that they take are then longer than those of cells alone.
        publish_to: where copies of the results go that tell nothing of this machine.

    Raises:
        DualLoRAError: before anything runs: another bench works in the folder; a chosen cell is not what the suite
            says, or had other images; the data are missing; a place cannot be written.
    """
    if jobs < 1:
        raise DualLoRAError(f"--jobs is {jobs}; give 1 or more")
    for place in () if publish_to is None else (Path(publish_to), *Path(publish_to).parents):
        if place.exists() and not place.is_dir():
            raise DualLoRAError(f"'{place}' is a file; give a folder with --publish")
    with holding(grid.folder) as lock:
        if lock.note:
            tell(lock.note)
        states = {cell: state_of(cell) for cell in grid.cells}
        check_states({cell: states[cell] for cell in chosen}, redo)
        for cell, state in states.items():
            if state.kind in ("altered", "foreign") and cell not in chosen:
                tell(f"{cell.name}, not chosen now, is left out of the tables: {state.why}")
        todo = _todo(chosen, states, redo)
        streams = _opened(todo)
        rows = {cell.row for cell in chosen}
        known = {cell: state for cell, state in states.items() if cell.row in rows}
        check_alike(known, {cell: extent(cell, *streams[_key(cell)]) for cell in todo})
        if publish_to is not None:
            check_target(grid, [*(c for c, s in states.items() if s.kind == "done"), *todo], publish_to)
        index = Index.of(grid)
        index.save(grid.folder)
        fresh = _fresh(states, redo)
        times = estimates(todo, fresh, _device(grid), lambda stream: streams[stream.model_dump_json()][1])
        tasks = {cell: streams[_key(cell)][0] for cell in todo}
        failed: dict[Cell, Failure] = {}
        try:
            with Board(fresh, todo, tasks, {c: time.seconds for c, time in times.items()}, jobs, lock.beat) as board:
                failed = run_cells(todo, redo, jobs, board, grid.folder / LOGS)
        finally:  # after Ctrl-C, too, the tables are of all that has finished
            outcome = _written(grid, index, failed, len(todo))
        if publish_to is None:
            return outcome
        done = [cell for cell, state in outcome.states.items() if state.kind == "done"]
        return replace(outcome, published=publish(grid, done, publish_to))


def _written(grid: Grid, index: Index, failed: Mapping[Cell, Failure], ran: int) -> Outcome:
    """The tables of what is done now, as files."""
    states = {cell: state_of(cell) for cell in grid.cells}
    lines = collect(grid.folder, index, {cell.folder for cell, state in states.items() if state.kind == "done"})
    document = summary(index, lines)
    if any(line.runs for line in lines):
        write_text_atomic(grid.folder / "table.md", f"# {index.title}\n\n{markdown(index, lines)}")
        write_json_atomic(grid.folder / "summary.json", document)
        write_text_atomic(grid.folder / "report.html", page(index, lines))
    return Outcome(states, failed, ran, lines, document, None)


def check_failures(outcome: Outcome, folder: Path) -> None:
    """Raise DualLoRAError about the cells that went wrong; RuntimeError if a fault of ours is among them."""
    if not outcome.failed:
        return
    same = len({failure.message for failure in outcome.failed.values()}) == 1
    told = {cell.name: failure.told for cell, failure in outcome.failed.items()}
    text = next(iter(told.values())) if same else "; ".join(f"{name}: {message}" for name, message in told.items())
    left = sum(state.kind != "done" for state in outcome.states.values())
    names = ", ".join(told)
    message = f"{text} [{names}]" if same else text
    message += f". {left} of {len(outcome.states)} runs are missing"
    message += f"; '{folder}' holds the others" if left < len(outcome.states) else ""
    if any(failure.fault for failure in outcome.failed.values()):
        raise RuntimeError(message)
    raise DualLoRAError(message)


def _todo(chosen: Sequence[Cell], states: Mapping[Cell, State], redo: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in chosen if states[cell].kind != "done" or cell in redo]


def _fresh(states: Mapping[Cell, State], redo: Sequence[Cell]) -> dict[Cell, State]:
    """The states, as if nothing were there of what starts over."""
    return {cell: State("missing") if cell in redo else state for cell, state in states.items()}


def _key(cell: Cell) -> str:
    return cell.config.stream.model_dump_json()


def _opened(cells: Sequence[Cell]) -> dict[str, tuple[int, int]]:
    """Tasks and images of every stream of some cells, so that what is missing shows before anything runs."""
    found: dict[str, tuple[int, int]] = {}
    for cell in cells:
        if _key(cell) not in found:
            found[_key(cell)] = _look_at(cell.config.stream, download=True)
    return found


def _look_at(config: StreamConfig, *, download: bool) -> tuple[int, int]:
    """Number of tasks and of training images of a stream.

    Raises:
        DualLoRAError: the data are missing (what to fetch and where to put it), or the stream cannot be made of them.
    """
    from duallora.data import open_domains, open_source
    from duallora.evaluation.runner import build_stream

    if not download:  # which `build_stream` would
        (open_source if config.scenario == "class-incremental" else open_domains)(
            config.source, root=config.root, download=False
        )
    stream = build_stream(config)
    return len(stream), sum(len(task.train) for task in stream)


def _device(grid: Grid) -> str:
    """Kind of device of the first cell."""
    import torch

    name = grid.cells[0].config.device
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return name.split(":")[0]
