"""A cell's process, as far as no bench need run for it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from duallora.bench.worker import work
from duallora.errors import DualLoRAError
from duallora.evaluation.run_folder import REDO

FORKING = """
import multiprocessing, sys
from duallora.bench import worker

def work(job):
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join(20)
    return {"child": child.exitcode}

worker.work = work
worker.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_processes_that_decode_images_are_not_held_up_by_the_watch_over_the_bench() -> None:
    cell = subprocess.Popen([sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert cell.stdin is not None and cell.stdout is not None
    cell.stdin.write("{}\n")
    cell.stdin.flush()  # and it stays open, as a bench holds it
    assert json.loads(cell.stdout.readline()) == {"child": 0}
    assert cell.wait(20) == 0
    cell.stdin.close()
    cell.stdout.close()


def test_a_cell_is_named_where_it_must_start_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--redo` alone, which a run takes, is none of a bench."""

    def refuses(*_: object, **__: object) -> None:
        raise DualLoRAError(f"half a run of other images; {REDO}, or give another --out")

    monkeypatch.setattr("duallora.evaluation.runner.run", refuses)
    job = {"name": "it's slow/order-1", "config": {}, "folder": str(tmp_path / "cell"), "redo": False}
    words = shlex.split(work(job)["error"].split("; ")[1].replace(",", " "))
    assert words[:5] == ["start", "over", "with", "--redo", "it's slow/order-1"]
