"""One bench at a time on a folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from duallora.errors import DualLoRAError
from duallora.files import writing

NAME = ".lock"
FRESH = 300.0  # seconds: a holder on another machine touches the file much more often than that


class Lock:
    """Held by `holding`; `beat` tells other machines that the holder lives."""

    def __init__(self, path: Path, file: IO[str], note: str) -> None:
        """Of an open, locked file; `note` says what was found there, or is ""."""
        self.path, self.note = path, note
        self._file = file
        self._beaten = time.monotonic()

    def beat(self, every: float = 30.0) -> None:
        """Touch the file now and then."""
        if time.monotonic() - self._beaten > every:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[Lock]:
    """Hold the folder's lock; the folder is made where there is none.

    The system frees the lock with the process that holds it, however that ends. A file that is not locked is stale,
    unless it names another machine (which a shared disk need not lock against) and is fresh.

    Raises:
        DualLoRAError: another bench holds it (its process and machine are named), or the folder cannot be written.
    """
    path = folder / NAME
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        holder = _holder(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refused(path, holder, "wait for it, stop it, or give another --out") from error
        except OSError:  # a disk that knows no locks: what the file says must do
            if holder.get("host") == socket.gethostname() and _alive(holder.get("pid")):
                raise _refused(path, holder, "wait for it, stop it, or give another --out") from None
        age = time.time() - path.stat().st_mtime
        elsewhere = holder.get("host") not in (None, socket.gethostname())
        if elsewhere and age < FRESH:
            raise _refused(path, holder, f"wait for it, or delete '{path}' if that machine is no more")
        note = f"{_who(holder)} was broken off here; its lock is taken over" if holder else ""
        with writing(path):
            file.seek(0)
            file.truncate()
            json.dump(_self(), file)
            file.flush()
        try:
            yield Lock(path, file, note)
        finally:  # emptied, not removed: who has opened it meanwhile must not lock a file that has lost its name
            file.truncate(0)
            if folder in made and [p.name for p in folder.iterdir()] == [NAME]:  # nothing came of it: leave no trace
                path.unlink()
                with contextlib.suppress(OSError):
                    for place in made:
                        place.rmdir()


def _self() -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def _holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        held = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _who(holder: dict[str, Any]) -> str:
    return (
        f"the bench with process id {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}, "
        f"started {holder.get('started', 'at an unknown time')},"
    )


def _refused(path: Path, holder: dict[str, Any], cure: str) -> DualLoRAError:
    return DualLoRAError(f"'{path.parent}' is in use: {_who(holder)} works in it; {cure}")


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
