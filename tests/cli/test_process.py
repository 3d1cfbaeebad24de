"""What only a process of its own can show: Ctrl-C, a terminal without Unicode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import snapshot

from duallora import Learner
from tests_support import heeds_ctrl_c

COMMAND = [sys.executable, "-m", "duallora"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_ctrl_c_in_the_middle_of_learning_leaves_the_model_as_it_was(zoo: Path, pictures: Path) -> None:
    before = snapshot(zoo.parent)
    process = subprocess.Popen(
        [*COMMAND, "learn", zoo, pictures / "vehicles", "--set=training.epochs=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal of the tests is not for it
        preexec_fn=heeds_ctrl_c,
    )
    try:
        first = process.stderr.readline()
        assert first.startswith("learning 'vehicles'"), first + process.stderr.read()
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"60 s after Ctrl-C it still ran: {process.communicate()[1]}")
    finally:
        process.kill()
    # CPython sometimes ends itself by the signal, although the interrupt was caught; a shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT), err
    assert out == "", err
    assert "Traceback" not in err, err
    assert "nothing is half-written; type the same command again to learn the task" in err, err
    assert snapshot(zoo.parent) == before
    assert Learner.load(zoo).classes == ["cat", "dog"]


def test_a_terminal_without_unicode(trained: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*COMMAND, "inspect", trained], capture_output=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"cat, dog" in done.stdout
    assert done.stdout.isascii()
    missing = subprocess.run(
        [*COMMAND, "inspect", tmp_path / "größe"], capture_output=True, env=environment, timeout=120, check=False
    )
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr
    assert b"there is no model folder" in missing.stderr
