"""Names of tasks: each once, in characters that can be shown and saved."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from duallora.errors import DualLoRAError


def task_name(given: str | None, own: str, taken: Collection[str]) -> str:
    """The name of a new task.

    Args:
        given: by the user; None or empty text where they leave it open.
        own: of what is learned, its folder's name; empty where it has none.
        taken: names of the tasks so far.

    Raises:
        DualLoRAError: the given name is no text, is taken or has control characters; what would be the name is no valid
            Unicode.

    >>> task_name(None, "animals", []), task_name(None, "animals", ["animals"]), task_name("pets", "animals", [])
    ('animals', 'task 2', 'pets')
    """
    if given is not None and not isinstance(given, str):
        raise DualLoRAError(f"the task's name is {given!r}, expected text, such as name={str(given)!r}")
    name = given or own
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DualLoRAError(
            f"{name!r} is no valid Unicode text and cannot name a task; give one with --name (name=...)"
        ) from error
    if given:
        if given in taken:
            raise DualLoRAError(f"the model has a task '{given}' already; give another --name (name=...)")
        if _hidden(given):
            raise DualLoRAError(f"--name {given!r} has characters that nobody can see; leave them out")
        return given
    if own and own not in taken and not _hidden(own):
        return own
    return next(free for n in range(len(taken) + 1, 2 * len(taken) + 2) if (free := f"task {n}") not in taken)


def _hidden(name: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in name)
