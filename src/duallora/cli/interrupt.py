"""Ctrl-C that is heeded, whenever it comes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

AGAIN = 0.2  # seconds until a moment that was no good is looked at again


class Interrupt:
    """Whether the reader has pressed Ctrl-C since the command began."""

    def __init__(self) -> None:
        """Not yet."""
        self.asked = False

    def _signal(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but not amid an import.

        There libraries catch it, or are left half made, and the command would go on, or end in some other error. Who
        presses it twice does not want to wait.
        """
        again = self.asked and number == signal.SIGINT
        self.asked = True
        if _importing(frame) and not again:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        raise KeyboardInterrupt


@contextlib.contextmanager
def heeded() -> Iterator[Interrupt]:
    """Within, Ctrl-C waits for an import to end; without effect off the main thread and where there are no timers."""
    interrupt = Interrupt()
    usual = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not usual or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    before = signal.signal(signal.SIGALRM, interrupt._signal)
    signal.signal(signal.SIGINT, interrupt._signal)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
