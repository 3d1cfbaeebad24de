"""Cells as processes: start, watch, stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from duallora.bench.cells import Cell

COMMAND = (sys.executable, "-m", "duallora.bench.worker")
# Linux lets a program begin with the peak of memory of the process that started it. So a shell starts the cell: its
# own peak is small, and the bench, which has looked at the data, leaves no mark on the figure of a cell.
SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "cell")
LOGS = ".logs"
STOPPING = 10.0  # seconds that a cell has to end before it is killed


@dataclass(frozen=True)
class Failure:
    """Why a cell failed.

    Attributes:
        message: what went wrong; the same for all cells that fail in the same way.
        fault: of ours; anything else the user can mend.
        log: where what the cell printed is, if that helps.
    """

    message: str
    fault: bool = False
    log: Path | None = None

    @property
    def told(self) -> str:
        """The message, and where to read on."""
        return self.message if self.log is None else f"{self.message}; what it printed is in '{self.log}'"


class Watcher(Protocol):
    """Who is told how the cells get on."""

    def started(self, cell: Cell) -> None:
        """A cell begins, or goes on."""

    def waiting(self, running: Sequence[Cell]) -> None:
        """Called often."""

    def finished(self, cell: Cell, seconds: float) -> None:
        """A cell is done."""

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A cell has failed."""


class Worker:
    """The process of one cell."""

    def __init__(self, cell: Cell, redo: bool, threads: int | None, logs: Path) -> None:
        """Start it; `threads` is a limit for each of several that run at once."""
        self.cell = cell
        self.log = logs / f"{cell.folder.parent.name}-{cell.folder.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ)  # spinning threads starve each other
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        self._errors: IO[bytes] = self.log.open("wb")
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            (*SHELL, *COMMAND),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the bench, which ends its cells itself
        )
        config = cell.config.model_dump(mode="json")
        job = {"name": cell.name, "config": config, "folder": str(cell.folder), "redo": redo}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which `outcome` tells
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self._process.poll() is None

    def outcome(self) -> Failure | None:
        """What went wrong, of a process that has ended."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().decode("utf-8", "replace").splitlines()
        self._close()
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError):
            code = self._process.returncode
            if code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # the shell tells of signals by numbers above 128
                return Failure("was killed from outside, most likely for want of memory; run fewer at once (--jobs)")
            return Failure(f"ended without an answer (exit code {code})", fault=True, log=self.log)
        if not answer:
            self.log.unlink(missing_ok=True)
            return None
        fault = bool(answer.get("fault"))
        return Failure(answer["error"], fault=fault, log=self.log if fault else None)

    def stop(self) -> None:
        """End it; what it has finished stays."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # which it takes as the end
        try:
            self._process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # the shell and the cell
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def run_cells(
    cells: Sequence[Cell], redo: Sequence[Cell], jobs: int, watcher: Watcher, logs: Path
) -> dict[Cell, Failure]:
    """Run cells, `jobs` at a time, each in a process of its own; one that fails does not stop the others.

    Only where the first cells all fail in the same way are the others left: then it is no matter of the cell.

    Args:
        cells: in this order.
        redo: those that start over.
        jobs: processes at once; they share the processor's cores unless OMP_NUM_THREADS is set.
        watcher: is told.
        logs: folder of what the processes print.

    Returns:
        the failures.
    """
    threads = max(1, _cores() // jobs) if jobs > 1 else None
    waiting, running, failed, done = list(cells), list[Worker](), dict[Cell, Failure](), 0
    with _stopping(running):
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running.append(Worker(cell, cell in redo, threads, logs))
                watcher.started(cell)
            watcher.waiting([worker.cell for worker in running])
            for worker in [worker for worker in running if not worker.running]:
                running.remove(worker)
                failure = worker.outcome()
                if failure is None:
                    done += 1
                    watcher.finished(worker.cell, time.monotonic() - worker.began)
                else:
                    failed[worker.cell] = failure
                    watcher.failed(worker.cell, failure)
            if not done and len(failed) > 1 and len({failure.message for failure in failed.values()}) == 1:
                waiting.clear()
            if running:
                time.sleep(0.1)
    return failed


@contextlib.contextmanager
def _stopping(running: Sequence[Worker]) -> Iterator[None]:
    """End what runs when something breaks off the block."""
    try:
        yield
    finally:
        for worker in running:
            worker.stop()


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
