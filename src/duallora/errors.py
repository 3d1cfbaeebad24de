"""Errors that a user can cause and mend."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

# How alike two names must be for one to be taken for the other misspelt: a letter wrong in three is (0.67), what shares
# an ending alone is not ("inflora" and "c-lora": 0.62).
NEAR = 0.65


class DualLoRAError(ValueError):
    """Something the caller gave cannot be used; the message names it, what was expected, and what to type instead.

    The command line prints it without a trace back and exits with code 2.
    """


def memory_ran_out(error: BaseException) -> bool:
    """Whether something failed for want of memory, the computer's or a device's: torch says so in words only.

    >>> memory_ran_out(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    True
    """
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in words))


def unknown(kind: str, value: str, known: Iterable[str]) -> DualLoRAError:
    """An error for a name that does not exist, with the nearest one that does where one is near enough to be meant.

    >>> str(unknown("method", "dualora", ["duallora", "lora"]))
    "unknown method 'dualora'; did you mean 'duallora'? Known: duallora, lora"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=NEAR)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return DualLoRAError(f"unknown {kind} '{value}'{hint} Known: {', '.join(names)}")
