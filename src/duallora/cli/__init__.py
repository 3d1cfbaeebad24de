"""The command line: one typed function per command, each one public Python call. Importing it imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from duallora.cli.app import app
from duallora.cli.guard import guarded

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the interpreter with its exit code.

    Args:
        arguments: what was typed after `duallora`; `sys.argv` by default.

    Raises:
        SystemExit: always; 0 is success, 2 an input that cannot be used, 130 an interruption, 1 a fault of ours.
    """
    sys.exit(guarded(app, sys.argv[1:] if arguments is None else arguments))
