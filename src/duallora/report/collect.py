"""Find the results of runs in a folder."""

from __future__ import annotations

from pathlib import Path

from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.files import user_path


def collect_runs(folder: str | Path) -> list[RunResults]:
    """All `results.json` in a folder and its sub-folders (not hidden ones), in the order of their paths.

    Raises:
        DualLoRAError: the folder is missing or has no results, or a file is broken (named).
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise DualLoRAError(f"there is no folder '{folder}'; give the folder of a run, or one that holds several")
    found = [
        path
        for path in sorted(folder.rglob("results.json"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    if not found:
        raise DualLoRAError(
            f"there is no results.json in '{folder}' or below; make one: duallora demo --out runs/demo, then "
            "duallora report runs/demo"
        )
    return [RunResults.load(path) for path in found]
