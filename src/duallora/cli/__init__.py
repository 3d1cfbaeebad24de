"""The command line: one typed function per command, each one public Python call. Importing it imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the interpreter with its exit code.

    Args:
        arguments: what was typed after `duallora`; `sys.argv` by default.

    Raises:
        SystemExit: always; 0 is success, 2 an input that cannot be used, 130 an interruption, 1 a fault of ours.
    """
    # Threads of torch that wait by spinning starve each other where anything else runs: 10 times slower on a busy
    # machine with two cores. Set before torch is imported; whoever sets it outside is obeyed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from duallora.cli.app import app
        from duallora.cli.guard import guarded
    except KeyboardInterrupt:
        print("Error: interrupted: nothing was changed; type the same command again", file=sys.stderr)
        sys.exit(130)
    sys.exit(guarded(app, sys.argv[1:] if arguments is None else arguments))
