"""What a command answers, for people and for programs; and what it tells on the side."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from duallora.answers import SkippedImage

MOST_SKIPPED = 10
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@dataclass(frozen=True)
class Answer:
    """The outcome of a command.

    Attributes:
        document: as JSON values.
        show: prints the same for a reader.
    """

    document: Any
    show: Callable[[Console], None]

    def print(self, *, as_json: bool) -> None:
        """Write one of the two to standard output."""
        if as_json:
            print(json.dumps(self.document, indent=2, allow_nan=False))  # ASCII: whatever the encoding of the terminal
        else:
            self.show(plain_console())
        sys.stdout.flush()


def plain_console() -> Console:
    """A console on standard output that prints names as they are, and cuts nothing where it is no terminal."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, emoji=False, width=200)


def say(text: str) -> None:
    """A line for the reader beside the answer, on standard error."""
    print(shown(text), file=sys.stderr, flush=True)


def shown(text: str) -> str:
    r"""Text with its control characters written out: a file's name must not steer the terminal.

    >>> print(shown("red\x1b[31m.png"))
    red\x1b[31m.png
    """
    return text.translate(CONTROLS)


def shown_in_a_cell(text: str) -> str:
    r"""The same on one line, of as many columns as it has characters.

    >>> print(shown_in_a_cell("a\tb.png"))
    a\x09b.png
    """
    return shown(text).translate({9: r"\x09", 10: r"\x0a"}).encode("utf-8", "backslashreplace").decode()


def tell_skipped(skipped: Sequence[SkippedImage]) -> None:
    """Say how many files were not used, which and why; folders, which miss a whole class, first."""
    if not skipped:
        return
    say(f"skipped {counted(len(skipped), 'file')}:")
    for image in sorted(skipped, key=lambda image: not Path(image.path).is_dir())[:MOST_SKIPPED]:
        say(f"  {image.path}: {image.reason}")
    if len(skipped) > MOST_SKIPPED:
        say(f"  and {len(skipped) - MOST_SKIPPED} more (--json lists all)")


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "class"), counted(2, "class"), counted(3, "image")
    ('1 class', '2 classes', '3 images')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"


def percent(share: float | None) -> str:
    """A share of 1 as per cent with one decimal; "-" where there is none.

    >>> percent(0.8734), percent(None)
    ('87.3', '-')
    """
    return "-" if share is None else f"{100 * share:.1f}"


def size(count: int) -> str:
    """A number of bytes for people.

    >>> size(640), size(4_503_168)
    ('640 B', '4.5 MB')
    """
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def bar(share: float, width: int = 20) -> str:
    """A share of 1 as a bar.

    >>> bar(0.25, 8)
    '[##......]'
    """
    full = round(min(max(share, 0.0), 1.0) * width)
    return f"[{'#' * full}{'.' * (width - full)}]"
