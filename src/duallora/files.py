"""Paths as people type them, and files of which nobody ever sees half: write beside, sync, rename."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from duallora.errors import DualLoRAError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


def user_path(path: str | Path) -> Path:
    """A path as somebody types it: `~` is the home folder, where the shell has left it (`--out=~/runs`).

    A name that only begins like a home folder, of a user who does not exist, stays what it is.

    >>> user_path("~no such user/zoo").parts
    ('~no such user', 'zoo')
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_json_atomic(path: str | Path, data: JSON) -> None:
    """Write `data` as indented UTF-8 JSON to `path`; a reader sees the old file or the new one, never a part.

    Missing parent folders are made.

    Raises:
        DualLoRAError: `data` holds something that JSON cannot, or the place cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run" / "config.json"
    >>> write_json_atomic(path, {"seed": 0})
    >>> json.loads(path.read_text())
    {'seed': 0}
    """
    write_text_atomic(path, dump_json(data))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` by way of a synced sibling that is renamed; missing parent folders are made.

    Raises:
        DualLoRAError: the place cannot be written, or `path` is a folder.
    """
    path = user_path(path)
    if path.is_dir():
        raise DualLoRAError(f"cannot write '{path}': a folder of that name is in the way; remove it or choose another")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            write_synced(beside, text.encode("utf-8"))
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def dump_json(data: JSON) -> str:
    """Indented JSON text of `data`, ending in a newline.

    Raises:
        DualLoRAError: a value or a key that JSON cannot hold as it is (an object, NaN, a number as a key), named.
    """
    check_json(data)
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_json(value: object, where: str = "value") -> None:
    """Raise DualLoRAError, naming the place, if `value` would not survive a trip through JSON (tuples become lists)."""
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DualLoRAError(f"{where} is {value}, which JSON cannot hold; store null or a finite number")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DualLoRAError(f"{where} has the key {key!r}; JSON keys are text: write {str(key)!r}")
            _check_text(key, f"a key of {where}")
            check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_json(item, f"{where}[{i}]")
    else:
        raise DualLoRAError(
            f"{where} is of type {type(value).__name__}, which JSON cannot hold; "
            "give text, numbers, true/false, null, lists or mappings of them"
        )


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DualLoRAError(f"{where} is {text!r}, which is no valid Unicode text; rename it") from error


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot open or sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes and threads that enter a folder this way out of it; nothing is left behind in it.

    Yields whether nobody else is in it. With `wait` that is always so, but where the system or the disk knows no such
    locks (Windows, some network file systems), which counts as being alone.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield True
        return
    try:
        alone = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            alone = False
        except OSError:
            pass
        yield alone
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a DualLoRAError that says what could not be written and what to do.

    Raises:
        DualLoRAError: in its place.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DualLoRAError(
            f"cannot write '{path}': {reason}; choose a place that you may write to and that has room"
        ) from error
