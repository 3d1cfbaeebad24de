"""One cell in a process of its own, so that its peak of memory is its own: `python -m duallora.bench.worker`.

It reads one line of JSON (config, folder, redo, name) and lives as long as its standard input stays open: when the
bench that started it ends, however it ends, so does the cell, and goes on after its last finished task another time.
It answers with one line of JSON; all else that is printed goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

LESS = "run fewer cells at once (--jobs), or smaller batches (training.batch_size of the row in a copy of the suite)"
ENDED = 3  # exit code of a cell whose bench has gone


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Run a cell; what is wrong with it, or nothing."""
    from duallora.config import RunConfig
    from duallora.errors import DualLoRAError, memory_ran_out
    from duallora.evaluation.run_folder import REDO
    from duallora.evaluation.runner import run

    folder = Path(job["folder"])
    try:
        if not (folder / "config.json").exists():
            _clear(folder)
        run(RunConfig.model_validate(job["config"]), folder, redo=job["redo"], progress=False)
    except DualLoRAError as error:
        return {"error": str(error).replace(REDO, f"{REDO} {shlex.quote(job['name'])}")}
    except OSError as error:
        if memory_ran_out(error):
            return {"error": f"the memory does not suffice; {LESS}"}
        where = f"'{error.filename}': " if error.filename else ""
        return {"error": f"{where}{error.strerror or error}; check the place, its permissions and the room on the disk"}
    except Exception as error:
        traceback.print_exc()
        if memory_ran_out(error):
            return {"error": f"the memory does not suffice; {LESS}"}
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "fault": True}
    return {}


def _clear(folder: Path) -> None:
    """Remove what is left of a run that has lost its configuration; `state` has let nothing else pass."""
    for name in ("checkpoints", "readouts", "steps"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [folder / "results.json", folder / "report.html", folder / "images.json", *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)


def _end_with_the_bench() -> None:
    # Past Python's buffer: a process that decodes images would inherit its lock, held, and wait for it for ever.
    while os.read(0, 4096):
        pass
    os._exit(ENDED)  # at any point: files are written whole or not at all


def main() -> None:
    """Work, and answer."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_bench, daemon=True).start()
    with contextlib.redirect_stdout(sys.stderr):
        answer = work(job)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
