"""What of a bench may be shown to others: its results as JSON, without a word about where anything lay."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from duallora.bench.cells import Cell, Grid, merged
from duallora.bench.index import Index
from duallora.bench.state import difference
from duallora.bench.table import folder_table
from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.files import write_text_atomic


def publish(grid: Grid, done: list[Cell], target: Path) -> Path:
    """Copy finished cells, the suite's index and the table to `target`/<name of the grid>, and return that folder.

    Raises:
        DualLoRAError: as `check_target`, or the place cannot be written.
    """
    check_target(grid, done, target)
    folder = target / grid.name
    for cell in done:
        publish_run(cell.folder, folder / cell.folder.relative_to(grid.folder), public_source(cell.source))
    index = Index.of(grid)
    index.save(folder)
    write_text_atomic(folder / "table.md", f"# {index.title}\n\n{folder_table(folder)}")
    return folder


def check_target(grid: Grid, renewed: Collection[Cell], target: Path) -> None:
    """Raise DualLoRAError if a place can take no copies: it would average runs of other settings with those of now.

    Args:
        grid: of the suite.
        renewed: cells whose copies will be written anew.
        target: as of `publish`.
    """
    folder = target / grid.name
    if folder.resolve() == grid.folder.resolve():
        raise DualLoRAError(f"'{target}' is where the bench itself works; publish to another folder")
    cells = {cell.folder.relative_to(grid.folder): cell for cell in grid.cells}
    for place in sorted({path.parent for path in cells}):
        for found in sorted((folder / place).glob("*/results.json")):
            cell, change = cells.get(found.parent.relative_to(folder)), None
            if cell is None:
                change = "the suite has no such run"
            elif cell not in renewed:
                here = {"stream": {"source": public_source(cell.source), "root": None}}
                wanted = RunConfig.model_validate(merged(cell.config.model_dump(mode="json"), here))
                held = RunResults.load(found)
                change = difference(held.config, wanted, finished=True)
                if not change and held.on_former_weights:
                    change = "former weights of the bundled backbone"
            if change:
                raise DualLoRAError(
                    f"'{found.parent}' was published under other settings ({change}); remove it, or run it and "
                    "publish again"
                )


def publish_run(run: Path, target: Path, source: str) -> None:
    """Copy the results of one run, for all its read-outs."""
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    here: dict[str, Any] = {"stream": {"source": source, "root": None}, "backbone": {"weights": None}}
    for found in sorted(run.rglob("results.json")):
        results = RunResults.load(found)
        config = merged(results.config, here)
        skipped = [s.model_copy(update={"path": PurePosixPath(s.path).name}) for s in results.skipped]
        results.model_copy(update={"config": config, "skipped": skipped}).save(beside / found.relative_to(run))
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def public_source(source: str) -> str:
    """A source without the folders above it.

    >>> public_source("cifar100"), public_source("folder:somewhere/deep/pacs")
    ('cifar100', 'folder:pacs')
    """
    kind, colon, rest = source.rpartition(":")
    return f"{kind}{colon}{PurePosixPath(rest).name}"
