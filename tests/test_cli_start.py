"""The command answers at once: help must not wait for torch."""

from __future__ import annotations

import subprocess
import sys
import time

COMMANDS = ("demo", "run", "learn", "predict", "evaluate", "inspect", "methods", "report")


def test_help_answers_in_a_second_and_a_half() -> None:
    seconds = []
    for _ in range(3):  # the best of three: other work on the machine may only make it slower
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "duallora", "--help"], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert all(command in done.stdout for command in COMMANDS)
    assert min(seconds) < 1.5, f"duallora --help took {min(seconds):.2f} s"


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, duallora.cli; "
        "print([name for name in ('torch', 'torchvision', 'timm', 'matplotlib', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
