"""Progress of a session: a live bar on a terminal, plain lines elsewhere, nothing when told so."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn


class TaskProgress:
    """Shows task, epoch, images per second and time left of one phase; use as a context.

    Args:
        title: e.g. "duallora task 2/5 training".
        total: images to pass through.
        enabled: False shows nothing.
        every: seconds between plain lines.
    """

    def __init__(self, title: str, total: int, *, enabled: bool = True, every: float = 10.0) -> None:
        """Nothing is shown before the context is entered."""
        self.title, self.total, self.enabled, self.every = title, total, enabled, every
        self.done = 0
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._id: TaskID | None = None
        self._began = self._told = 0.0

    def __enter__(self) -> Self:
        """Start the clock, and the bar on a terminal."""
        self._began = self._told = time.monotonic()
        if self.enabled and self._console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._id = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar; a plain closing line where there is none."""
        if self._bar is not None:
            self._bar.stop()
        elif self.enabled and kind is None and self.done:
            seconds = time.monotonic() - self._began
            print(f"{self.title}: {self.done} images in {seconds:.1f} s", file=sys.stderr, flush=True)

    def advance(self, images: int, note: str = "") -> None:
        """`images` more are done."""
        self.done += images
        if not self.enabled:
            return
        now = time.monotonic()
        rate = self.done / max(now - self._began, 1e-9)
        note = f"{note} {rate:.0f} images/s".strip()
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=self.done, note=note)
        elif now - self._told > self.every:
            self._told = now
            left = (self.total - self.done) / max(rate, 1e-9)
            print(f"{self.title}: {self.done}/{self.total} {note}, {left:.0f} s left", file=sys.stderr, flush=True)
