"""How a bench gets on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from duallora.bench.cells import Cell
from duallora.bench.processes import Failure
from duallora.bench.state import State
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.report.numbers import seconds, share

LIVE_ROWS = 40  # more do not fit a screen: then only rows that have something to do are shown


class Board:
    """Rows down, class orders (and seeds) across; use as a context.

    Args:
        states: every cell of the grid with what is there of it.
        chosen: the cells that are to be run.
        tasks: number of tasks of each of those, where it is known.
        estimates: seconds of each of those.
        jobs: cells at once.
        alive: called often while cells run.
    """

    def __init__(
        self,
        states: Mapping[Cell, State],
        chosen: Sequence[Cell],
        tasks: Mapping[Cell, int],
        estimates: Mapping[Cell, float],
        jobs: int,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is shown before the context is entered."""
        self.console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._texts = {cell: _of_state(state) for cell, state in states.items()}
        self._done = {cell: len(state.steps) for cell, state in states.items()}
        self._tasks, self._estimates, self._jobs = tasks, dict(estimates), jobs
        self._alive = alive
        self._left = list(chosen)
        self._total, self._ended = len(chosen), 0
        self._drawn = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Show the table, on a terminal."""
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the table as it is now."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def started(self, cell: Cell) -> None:
        """A line, or "running" in the table."""
        self._texts[cell] = "running"
        done = self._done[cell]
        self._line(f"{cell.name}: {f'goes on after task {done}' if done else 'begins'}")

    def waiting(self, running: Sequence[Cell]) -> None:
        """Which task each running cell is at."""
        self._alive()
        if self._live is None or time.monotonic() - self._drawn < 1.0:
            return
        self._drawn = time.monotonic()
        for cell in running:
            number = min(len(list((cell.folder / "steps").glob("*.json"))) + 1, self._tasks.get(cell, 10**6))
            of = f"/{self._tasks[cell]}" if cell in self._tasks else ""
            self._texts[cell] = f"task {number}{of}"
        self._live.update(self._table(), refresh=True)

    def finished(self, cell: Cell, seconds_taken: float) -> None:
        """Its accuracy."""
        last = _a_last(cell.folder)
        self._texts[cell] = share(last)
        self._end(cell, f"A last {share(last)} after {seconds(seconds_taken)}")

    def failed(self, cell: Cell, failure: Failure) -> None:
        """What went wrong."""
        self._texts[cell] = "failed"
        if self._live is not None:
            self.console.print(f"{cell.name}: {failure.message}")
        self._end(cell, f"failed: {failure.message}")

    def _end(self, cell: Cell, text: str) -> None:
        self._ended += 1
        self._left.remove(cell)
        left = f", about {self._time_left()} left" if self._left else ""
        self._line(f"{cell.name}: {text} ({self._ended} of {self._total}{left})")

    def _line(self, text: str) -> None:
        if self._live is None:
            self.console.print(text.replace("\u00a0", " "), soft_wrap=True)

    def _time_left(self) -> str:
        return seconds(sum(self._estimates.get(cell, 0.0) for cell in self._left) / self._jobs)

    def _table(self) -> Table:
        places = list(dict.fromkeys(cell.folder.name for cell in self._texts))
        table = Table(
            title=f"{self._ended} of {self._total} runs"
            + (f", about {self._time_left()} left" if self._left else "")
            + "; A last in percent where one is done",
            title_justify="left",
        )
        table.add_column("row", no_wrap=True)
        for place in places:
            table.add_column(place, justify="right", no_wrap=True)
        rows: dict[str, dict[str, str]] = {}
        for cell, text in self._texts.items():
            rows.setdefault(cell.row, {})[cell.folder.name] = text
        busy = {cell.row for cell in self._left} if len(rows) > LIVE_ROWS else set(rows)
        for row, texts in rows.items():
            if row in busy:
                table.add_row(row, *[texts.get(place, "") for place in places])
        return table


def tell(text: str) -> None:
    """A line for the reader, on standard error."""
    Console(stderr=True, markup=False, highlight=False, emoji=False).print(text, soft_wrap=True)


def _of_state(state: State) -> str:
    if state.results is not None:
        return share(state.results.a_last)
    return f"half, {len(state.steps)} done" if state.kind == "half" else "" if state.kind == "missing" else state.kind


def _a_last(folder: Path) -> float | None:
    try:
        return RunResults.load(folder).a_last
    except DualLoRAError:
        return None
