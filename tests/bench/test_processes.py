"""How cells are run, one process each: with processes that only pretend."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from duallora.bench import processes
from duallora.bench.cells import Cell, Grid
from duallora.bench.processes import Failure, run_cells
from duallora.bench.progress import Board
from duallora.bench.state import State

Make = Callable[..., Grid]


class Pretended:
    """Runs for a few looks, then has the outcome that stands for its cell."""

    outcomes: dict[str, Failure | None]
    at_once = most = 0

    def __init__(self, cell: Cell, redo: bool, threads: int | None, logs: Path) -> None:
        self.cell, self.redo, self.threads, self.began, self.looks = cell, redo, threads, 0.0, 2
        type(self).at_once += 1
        type(self).most = max(self.most, self.at_once)

    @property
    def running(self) -> bool:
        self.looks -= 1
        return self.looks > 0

    def outcome(self) -> Failure | None:
        type(self).at_once -= 1
        return self.outcomes.get(self.cell.name)

    def stop(self) -> None:
        type(self).at_once -= 1


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Pretended]]:
    def make(**outcomes: Failure | None) -> type[Pretended]:
        kind = type("Kind", (Pretended,), {"outcomes": outcomes})
        monkeypatch.setattr(processes, "Worker", kind)
        monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
        return kind

    return make


def board(grid: Grid, jobs: int = 1) -> Board:
    return Board({cell: State("missing") for cell in grid.cells}, grid.cells, {}, {}, jobs)


def test_so_many_at_once(
    grid_of: Make, pretend: Callable[..., type[Pretended]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, grid = pretend(), grid_of()
    with board(grid, 2) as shown:
        assert run_cells(grid.cells, [], 2, shown, tmp_path) == {}
    assert (kind.most, kind.at_once) == (2, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["slda/order-0: begins", "lora/order-0: begins"]
    assert re.fullmatch(r"lora/order-1: A last . after .* \(4 of 4\)", lines[-1])


def test_one_that_fails_does_not_stop_the_others(
    grid_of: Make, pretend: Callable[..., type[Pretended]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(**{"lora/order-0": Failure("no luck"), "lora/order-1": Failure("no luck")})
    grid = grid_of()
    with board(grid) as shown:
        failed = run_cells(grid.cells, [], 1, shown, tmp_path)
    assert [cell.name for cell in failed] == ["lora/order-0", "lora/order-1"]
    assert "slda/order-1: A last" in capsys.readouterr().err


def test_where_the_first_fail_alike_the_others_are_left(
    grid_of: Make, pretend: Callable[..., type[Pretended]], tmp_path: Path
) -> None:
    grid = grid_of()
    pretend(**{cell.name: Failure("no network") for cell in grid.cells})
    with board(grid) as shown:
        assert len(run_cells(grid.cells, [], 1, shown, tmp_path)) == 2
    pretend(**{cell.name: Failure(f"{cell.name} has its own trouble") for cell in grid.cells})
    with board(grid) as shown:
        assert len(run_cells(grid.cells, [], 1, shown, tmp_path)) == 4


def test_the_same_fault_of_all_is_the_same_though_each_has_its_own_log(
    grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import json; print(json.dumps({'error': 'KeyError', 'fault': True}))"
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", script))
    grid = grid_of()
    with board(grid) as shown:
        failed = run_cells(grid.cells, [], 1, shown, tmp_path)
    assert len(failed) == 2 < len(grid.cells)
    assert len({failure.log for failure in failed.values()}) == 2


def test_what_breaks_off_the_bench_ends_its_cells(
    grid_of: Make, pretend: Callable[..., type[Pretended]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, grid = pretend(), grid_of()

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes.time, "sleep", interrupted)
    with board(grid) as shown, pytest.raises(KeyboardInterrupt):
        run_cells(grid.cells, [], 2, shown, tmp_path)
    assert (kind.most, kind.at_once) == (2, 0)


def test_threads_are_shared(grid_of: Make, pretend: Callable[..., type[Pretended]], tmp_path: Path) -> None:
    kind, grid, seen = pretend(), grid_of(), list[int | None]()
    begin = kind.__init__
    kind.__init__ = lambda self, cell, redo, threads, logs: (
        seen.append(threads),
        begin(self, cell, redo, threads, logs),
    )[1]  # type: ignore[method-assign]
    for jobs in (1, 2, 1000):
        with board(grid, jobs) as shown:
            run_cells(grid.cells[:1], [], jobs, shown, tmp_path)
    assert seen[0] is None
    assert seen[1] == max(1, processes._cores() // 2)
    assert seen[2] == 1


@pytest.mark.parametrize(
    ("script", "said", "fault"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "want of memory", False),
        ("import sys; sys.exit(7)", "(exit code 7); what it printed is in '", True),
        ("import json; print(json.dumps({'error': 'no such data'}))", "no such data", False),
        ("import json; print(json.dumps({'error': 'KeyError', 'fault': True}))", "KeyError; what it printed", True),
    ],
    ids=["killed", "ended", "unusable", "fault"],
)
def test_what_a_cell_can_answer(
    script: str, said: str, fault: bool, grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", script))
    worker = processes.Worker(grid_of().cells[0], False, None, tmp_path / "logs")
    worker._process.wait(60)
    failure = worker.outcome()
    assert failure is not None
    assert said in failure.told
    assert failure.fault is fault


def test_a_cell_does_not_begin_with_the_memory_of_the_bench(
    grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import json, resource; print(json.dumps({'error': str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)}))"
    )
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", script))
    held = bytearray(400_000_000)
    held[::4096] = bytes(len(held[::4096]))  # every page of it
    worker = processes.Worker(grid_of().cells[0], False, None, tmp_path / "logs")
    worker._process.wait(60)
    failure = worker.outcome()
    assert failure is not None
    assert int(failure.message) * (1 if sys.platform == "darwin" else 1024) < 100_000_000


def test_a_cell_that_will_not_end_is_killed(grid_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(processes, "STOPPING", 0.2)
    worker = processes.Worker(grid_of().cells[0], False, None, tmp_path / "logs")
    worker.stop()
    assert not worker.running
