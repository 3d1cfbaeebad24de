"""A cell's process, as far as no bench need run for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
