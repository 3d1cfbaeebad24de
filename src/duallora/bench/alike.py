"""Whether the runs of a row learned the same images: a mean over others means nothing."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping

from duallora.bench.cells import Cell
from duallora.bench.state import State
from duallora.errors import DualLoRAError

Extent = tuple[int, int | None]  # tasks, and training images where every order has as many


def extent(cell: Cell, tasks: int, images: int) -> Extent:
    """What the runs of a row must agree in: of the first few tasks each order has other images."""
    return tasks, images if cell.config.stream.max_tasks is None else None


def check_alike(states: Mapping[Cell, State], now: Mapping[Cell, Extent]) -> None:
    """Raise DualLoRAError, naming the runs and what to type, where finished ones had other images than those to come.

    Images that were added since the first runs of a suite do that, or a part of the data that was missing then.

    Args:
        states: of the cells of some rows; those that are done count.
        now: of the cells that are to be run, from the data as they are.
    """
    rows = defaultdict[str, dict[Cell, Extent]](dict)
    for cell, state in states.items():
        if state.results is not None and cell not in now:
            tasks = state.results.tasks
            rows[cell.row][cell] = extent(cell, len(tasks), sum(task.train_images for task in tasks))
    for row, found in rows.items():
        wanted = next((e for cell, e in now.items() if cell.row == row), None) or next(reversed(found.values()))
        odd = [cell for cell, e in found.items() if e != wanted]
        if odd:
            cure = " ".join(f"--redo {shlex.quote(cell.name)}" for cell in odd)
            raise DualLoRAError(
                f"{odd[0].name} ran on {_told(found[odd[0]])}, another run of its row on {_told(wanted)}: the images "
                f"have changed in between. Start over with {cure}, or give another --out"
            )


def _told(found: Extent) -> str:
    tasks, images = found
    return f"{tasks} tasks" if images is None else f"{images} training images in {tasks} tasks"
