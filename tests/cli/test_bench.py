"""`duallora bench`, with cells that really run: each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_helpers import Type

from duallora.evaluation.results import RunResults
from tests_support import heeds_ctrl_c

TINY: dict[str, Any] = {
    "title": "Tiny digits",
    "base": {
        "stream": {"source": "digits", "increment": 5, "max_per_class": 4, "max_test_per_class": 4},
        "backbone": {"name": "test_vit", "pretrained": False, "image_size": 32},
        "training": {"epochs": 1, "precision": "float32"},
    },
    "orders": [1, 2],
    "rows": {"slda": {"method": {"name": "slda"}}, "+ ncm": {"method": {"name": "ncm"}}},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("results.json")}


@pytest.mark.slow
def test_a_grid_is_run_once_shown_and_copied(typed: Type, tmp_path: Path) -> None:
    suite, out, shown = written(tmp_path), tmp_path / "runs", tmp_path / "shown"
    dry = typed("bench", suite, "--out", out, "--dry-run", "--json").document
    assert [cell["state"] for cell in dry["cells"]] == ["missing"] * 4
    assert dry["data"] is None
    assert not out.exists()

    first = typed("bench", suite, "--out", out, "--only", "slda", "--orders", "1", "--jobs", "2", "--json")
    assert first.code == 0, first.err
    assert "slda/order-0: begins" in first.err
    assert first.document["ran"] == 2  # with the row without adaptation, which no table lacks
    found = {cell["cell"]: cell["state"] for cell in first.document["cells"]}
    assert found["slda/order-0"] == "done"
    assert found["+ ncm/order-0"] == "done"
    assert list(found.values()).count("missing") == 2
    assert "no adaptation" in (out / "tiny" / "table.md").read_text()
    before = times(out)
    done = typed("bench", suite, "--out", out, "--publish", shown)
    assert done.code == 0, done.err
    assert "slda/order-0" not in done.err  # it is not run again
    assert "(2 of 2)" in done.err
    assert "+ ncm" in done.out
    assert before.items() <= times(out).items()
    folder = out / "tiny"
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    results = sorted(folder.glob("*/order-*/results.json"))
    assert len(results) == 4
    every = sorted(folder.rglob("results.json"))
    assert len(every) == 6  # slda is scored with two read-outs
    mean = sum(RunResults.load(path).a_last for path in results if "slda" in str(path)) / 2
    document = json.loads((folder / "summary.json").read_text())
    figures = {line["label"]: line["figures"] for line in document["lines"]}
    assert figures["slda"]["a_last"]["mean"] == pytest.approx(mean)
    assert f"{100 * mean:.1f}" in (folder / "table.md").read_text()
    assert len(list(shown.rglob("results.json"))) == len(every)
    assert (shown / "tiny" / "table.md").read_text() == (folder / "table.md").read_text()

    again = typed("bench", suite, "--out", out, "--json")
    assert (again.code, again.document["ran"]) == (0, 0)
    assert "done" in typed("bench", suite, "--out", out, "--dry-run").out
    assert typed("report", folder, "--json").document["runs"] == len(every)

    path = folder / "slda" / "order-1" / "results.json"
    path.write_text(path.read_text().replace('"a_last"', '"a_lost"'))
    refused = typed("bench", suite, "--out", out)
    assert refused.code == 2
    assert "--redo slda/order-1" in refused.err
    assert "altered" in typed("bench", suite, "--out", out, "--dry-run").out
    others = typed("bench", suite, "--out", out, "--only", "+ ncm")
    assert others.code == 0, others.err
    assert "slda/order-1, not chosen now, is left out of the tables: " in others.err
    redone = typed("bench", suite, "--out", out, "--redo", "slda/order-1", "--json")
    assert (redone.code, redone.document["ran"]) == (0, 1)
    assert {cell["state"] for cell in redone.document["cells"]} == {"done"}


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({"order": [1]}, (), "unknown key 'order'; did you mean 'orders'"),
        ({"rows": {"a": {"metod": {}}}}, (), "row 'a': unknown key 'metod'; did you mean 'method'"),
        (
            {"rows": {"a": {"method": {"name": "slda", "options": {"rank": 1}}}}},
            (),
            "row 'a': method.options of 'slda'",
        ),
        ({}, ("--only", "slad"), "did you mean 'slda'"),
        ({}, ("--redo", "slda/3"), "unknown cell 'slda/3'; did you mean 'slda/"),
        ({}, ("--set", "training.epoch=2"), "did you mean 'epochs'"),
        ({}, ("--source", "digit"), "did you mean 'digits'"),
        ({}, ("--source", "nowhere/at.npz"), "does not exist"),
        ({}, ("--set", "stream.increment=[3, 3]"), "10 classes"),
        ({}, ("--protocol", "inflora"), "states no protocols"),
        ({}, ("--jobs", "0"), "--jobs"),
        ({}, ("--orders", "3"), "has 2: give 1 to 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_run_leaves_no_trace(
    change: dict[str, Any], arguments: tuple[str, ...], said: str, typed: Type, tmp_path: Path
) -> None:
    done = typed("bench", written(tmp_path, **change), "--out", tmp_path / "runs", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_data_that_are_not_there(typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALLORA_DATA", str(tmp_path / "data"))
    suite = written(tmp_path, base={"stream": {"source": "imagenet-r"}})
    done = typed("bench", suite, "--out", tmp_path / "runs")
    assert done.code == 2
    assert "imagenet-r" in done.err
    assert str(tmp_path / "data") in done.err  # where to put it
    dry = typed("bench", suite, "--out", tmp_path / "runs", "--dry-run")
    assert dry.code == 0
    assert "The data cannot be used: " in dry.out
    assert not (tmp_path / "runs").exists()


def test_places_that_cannot_be_written(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = typed("bench", written(tmp_path), "--out", tmp_path / "file")
    assert (done.code, done.out) == (2, "")
    assert "cannot write" in done.err
    assert typed("bench", "digit", "--out", tmp_path).err.startswith("Error: unknown suite 'digit'; did you mean")


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_stay(typed: Type, tmp_path: Path) -> None:
    rows = {"slda": TINY["rows"]["slda"], "gone": {"method": {"name": "ncm"}, "backbone": {"name": "vit_gone"}}}
    done = typed("bench", written(tmp_path, rows=rows), "--out", tmp_path / "runs", "--orders", "1")
    assert done.code == 2
    error = done.err.splitlines()[-1]
    assert "vit_gone" in error
    assert "[gone/order-0]. 3 of 4 runs are missing" in error
    assert "| slda | gaussian | 1 |" in (tmp_path / "runs" / "tiny" / "table.md").read_text()


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a bench in a process of its own; what still runs in the end is killed."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "duallora", "bench", *[str(argument) for argument in arguments]]
        with (tmp_path / "said.txt").open("w") as said:
            begun.append(
                subprocess.Popen(
                    command, stdout=said, stderr=said, text=True, start_new_session=True, preexec_fn=heeds_ctrl_c
                )
            )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def until(there: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_ctrl_c_and_on_again(typed: Type, tmp_path: Path, background: Callable[..., subprocess.Popen[str]]) -> None:
    base = TINY["base"] | {"stream": {"source": "digits", "increment": 1, "max_per_class": 60}}
    rows = {"ncm": {"method": {"name": "ncm"}}, "slda": TINY["rows"]["slda"]}
    suite, out = written(tmp_path, base=base, orders=[1], rows=rows), tmp_path / "runs"
    process = background(suite, "--out", out)
    steps = out / "tiny" / "slda" / "order-0" / "steps"
    until(lambda: (steps / "001.json").exists() or process.poll() is not None)  # by then the first model is saved
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (130, -signal.SIGINT)
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said
    assert "type the same command again to go on" in said
    assert not (steps.parent / "results.json").exists()
    assert "| ncm (no adaptation) |" in (out / "tiny" / "table.md").read_text()  # of what has finished
    first = (steps / "000.json").stat().st_mtime_ns
    state = typed("bench", suite, "--out", out, "--dry-run", "--json").document["cells"][1]
    assert (state["state"], state["tasks_done"] > 0) == ("half", True)
    done = typed("bench", suite, "--out", out)
    assert done.code == 0, done.err
    assert "slda/order-0: goes on after task" in done.err
    assert (steps / "000.json").stat().st_mtime_ns == first
    assert len(RunResults.load(steps.parent).accuracy_matrix) == 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes where Linux shows them")
def test_two_on_one_folder_and_one_that_was_killed(
    typed: Type, tmp_path: Path, background: Callable[..., subprocess.Popen[str]]
) -> None:
    rows = {"lora": {"method": {"name": "lora"}}}
    suite, out = written(tmp_path, orders=[1], rows=rows), tmp_path / "runs"
    process = background(suite, "--out", out, "--set", "training.epochs=1000000")
    until(lambda: (out / "tiny" / "lora" / "order-0" / "config.json").exists() or process.poll() is not None)
    second = typed("bench", suite, "--out", out)
    assert second.code == 2
    assert f"process id {process.pid} on {socket.gethostname()}" in second.err
    cells = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert cells
    process.kill()
    process.wait()
    until(lambda: not any(works(cell) for cell in cells))  # no cell outlives its bench
    halted = typed("bench", suite, "--out", out)
    assert halted.code == 2
    assert f"process id {process.pid}" in halted.err
    assert "its lock is taken over" in halted.err
    assert "training.epochs is 1000000, the suite says 1" in halted.err
    done = typed("bench", suite, "--out", out, "--redo", "lora", "--redo", "ncm")
    assert done.code == 0, done.err
    assert RunResults.load(out / "tiny" / "lora" / "order-0").config["training"]["epochs"] == 1


def works(pid: int) -> bool:
    """Whether there is such a process, not dead and waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_place_that_cannot_be_published_to_is_told_before_anything_runs(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    refused = typed("bench", "digits", "--only=ncm", "--out", tmp_path / "out", "--publish", tmp_path / "taken")
    assert refused.code == 2 and "is a file; give a folder with --publish" in refused.err
    assert not (tmp_path / "out").exists()
    refused = typed("bench", "digits", "--only=ncm", "--out", tmp_path / "out", "--publish", tmp_path / "out")
    assert refused.code == 2 and "is where the bench itself works; publish to another folder" in refused.err
    assert not list((tmp_path / "out").rglob("config.json"))
