"""Ctrl-C amid an import waits for its end, and is never swallowed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from duallora.cli.guard import guarded
from duallora.cli.interrupt import heeded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except BaseException:
    raise RuntimeError("half made")
done = True
"""


@pytest.fixture
def default_handler() -> Iterator[None]:
    """As in a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that would swallow the interrupt that comes while it is imported."""
    (tmp_path / "swallows_ctrl_c.py").write_text(SWALLOWS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "swallows_ctrl_c", raising=False)
    return "swallows_ctrl_c"


def test_an_import_ends_before_the_interrupt_is_heeded(default_handler: None, module: str) -> None:
    with heeded() as interrupt, pytest.raises(KeyboardInterrupt):
        __import__(module)
        assert interrupt.asked
        assert sys.modules[module].done
        time.sleep(10)  # cut short
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_elsewhere_it_is_heeded_at_once(default_handler: None) -> None:
    with heeded() as interrupt, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    assert interrupt.asked


def test_who_set_a_handler_keeps_it(default_handler: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heeded():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("ends", ["goes on", "fails"])
def test_a_command_that_was_interrupted_says_so_whatever_came_of_it(
    default_handler: None, module: str, capsys: pytest.CaptureFixture[str], ends: str
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command("learn")
    def learn() -> None:
        __import__(module)
        if ends == "fails":
            raise RuntimeError("the import had left something half made")
        time.sleep(10)

    @app.command("predict")
    def predict() -> None:
        pass

    assert guarded(app, ["learn"]) == 130
    told = capsys.readouterr().err
    assert "nothing is half-written; type the same command again" in told
    assert "fault" not in told
