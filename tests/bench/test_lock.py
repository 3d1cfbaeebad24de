"""One bench at a time."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from duallora.bench.lock import NAME, holding
from duallora.errors import DualLoRAError


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with holding(tmp_path / "runs"):
        with pytest.raises(DualLoRAError) as raised, holding(tmp_path / "runs"):
            pass
        assert f"process id {os.getpid()} on {socket.gethostname()}" in str(raised.value)
        (tmp_path / "runs" / "made.txt").write_text("")
    with holding(tmp_path / "runs") as lock:
        assert lock.note == ""


def test_nothing_stays_of_a_folder_in_which_nothing_was_done(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), holding(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def left_behind(folder: Path, host: str, age: float) -> None:
    (folder / NAME).write_text(json.dumps({"pid": 2**22 + 1, "host": host, "started": "2025-01-01T00:00:00+00:00"}))
    os.utime(folder / NAME, (time.time() - age,) * 2)


def test_a_stale_lock_is_taken_over_with_a_word(tmp_path: Path) -> None:
    left_behind(tmp_path, socket.gethostname(), 1)
    with holding(tmp_path) as lock:
        assert "process id 4194305" in lock.note
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    (tmp_path / NAME).write_text("no JSON")
    with holding(tmp_path):
        pass


def test_a_fresh_lock_of_another_machine_holds(tmp_path: Path) -> None:
    left_behind(tmp_path, "elsewhere", 60)
    with pytest.raises(DualLoRAError, match=r"on elsewhere.*; wait for it, or delete '.*\.lock'"), holding(tmp_path):
        pass
    left_behind(tmp_path, "elsewhere", 3600)
    with holding(tmp_path) as lock:
        assert "elsewhere" in lock.note


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DualLoRAError, match="cannot write"), holding(tmp_path / "file" / "below"):
        pass
