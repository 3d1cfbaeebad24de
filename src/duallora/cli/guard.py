"""From exceptions to messages and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from duallora.cli.interrupt import Interrupt, heeded
from duallora.cli.output import Answer, say
from duallora.errors import DualLoRAError, memory_ran_out

OK, FAULT, UNUSABLE, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

GO_ON = {
    "demo": "the results saved so far are intact; type the same command again to go on after the last finished task",
    "run": "the results saved so far are intact; type the same command again to go on after the last finished task",
    "bench": "the results saved so far are intact and in the tables; type the same command again to go on where it was",
    "learn": "nothing is half-written; type the same command again to learn the task, unless duallora inspect shows it",
}
FEWER = (
    "go on with fewer images at once: --set training.evaluation_batch_size=16, or start over with smaller batches: "
    "--set training.batch_size=16 --redo"
)
OTHER = "close other programs, or take another device: --device cpu"
NEED_LESS = {
    "demo": FEWER,
    "run": FEWER,
    "learn": "take smaller batches: --set training.batch_size=16 --set training.evaluation_batch_size=16",
    "predict": OTHER,
    "evaluate": OTHER,
}
NOTHING = "nothing was changed; type the same command again"


def guarded(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a command, print its answer or the one message about what went wrong, and return the exit code."""
    arguments = list(arguments) or ["--help"]
    as_json = "--json" in arguments  # looked for by hand: usage errors come before any option is parsed
    debug = "--debug" in arguments or os.environ.get("DUALLORA_DEBUG", "0") not in ("", "0")
    _never_fail_on_characters()
    with heeded() as interrupt:
        return _guarded(app, arguments, as_json, debug, interrupt)


def _guarded(app: typer.Typer, arguments: Sequence[str], as_json: bool, debug: bool, interrupt: Interrupt) -> int:
    if "" in arguments:  # it would mean the current folder
        _tell("an argument is empty text, perhaps a variable that is not set; leave it out or fill it", as_json)
        return UNUSABLE
    try:
        # Libraries may print (torchvision's downloads did); a program that reads JSON must not see it.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            outcome = typer.main.get_command(app).main(arguments, prog_name="duallora", standalone_mode=False)
        if isinstance(outcome, Answer):
            outcome.print(as_json=as_json)
            return OK
        if outcome == INTERRUPTED:  # Typer turns Ctrl-C into this
            raise KeyboardInterrupt
        return int(outcome or OK)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments, as_json)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Exception as error:
        if debug:
            traceback.print_exc()
        if interrupt.asked:  # what came of it on its way here
            return _interrupted(arguments, as_json)
        message, code = _explained(error, arguments, debug)
        _tell(message, as_json)
        return code


def _interrupted(arguments: Sequence[str], as_json: bool) -> int:
    with contextlib.suppress(KeyboardInterrupt):
        _tell(f"interrupted: {_how_to_go_on(arguments)}", as_json)
    return INTERRUPTED


def _how_to_go_on(arguments: Sequence[str]) -> str:
    told = GO_ON.get(_command(arguments), NOTHING)
    again = any(argument == "--redo" or argument.startswith("--redo=") for argument in arguments)
    return told.replace("the same command again", "the same command without --redo") if again else told


def _command(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _explained(error: Exception, arguments: Sequence[str], debug: bool) -> tuple[str, int]:
    """Message and exit code for an exception."""
    if isinstance(error, DualLoRAError):
        return str(error), UNUSABLE
    usage = _usage(error)
    if usage is not None:
        return usage, UNUSABLE
    if memory_ran_out(error):
        return f"the memory does not suffice; {NEED_LESS.get(_command(arguments), 'close other programs')}", UNUSABLE
    if isinstance(error, OSError):
        where = f"'{error.filename}': " if error.filename else ""
        return f"{where}{error.strerror or error}; check the place, its permissions and the room on the disk", UNUSABLE
    advice = "" if debug else ", with what --debug shows"
    said = " ".join(str(error).split())[:500]
    return f"a fault in duallora, please report it{advice}: {type(error).__name__}: {said}", FAULT


def _usage(error: Any) -> str | None:
    """What is wrong with how a command was typed; None for other errors.

    Recognised by what it offers: some versions of Typer bring a Click of their own, others use the installed one.
    """
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return None
    context = getattr(error, "ctx", None)
    help_for = context.command_path if context is not None else "duallora"
    return f"{error.format_message().strip()} Help: {help_for} --help"


def _tell(message: str, as_json: bool) -> None:
    say(json.dumps({"error": message}) if as_json else f"Error: {message}")


def _never_fail_on_characters() -> None:
    """A name that the terminal's encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
