"""What of a bench may be shown to others: its results as JSON, without a word about where anything lay."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from duallora.bench.cells import Cell, Grid, merged
from duallora.bench.index import Index
from duallora.bench.table import folder_table
from duallora.evaluation.results import RunResults
from duallora.files import write_text_atomic


def publish(grid: Grid, done: list[Cell], target: Path) -> Path:
    """Copy finished cells, the suite's index and the table to `target`/<name of the grid>, and return that folder.

    Raises:
        DualLoRAError: the place cannot be written.
    """
    folder = target / grid.name
    source = public_source(grid.source)
    for cell in done:
        publish_run(cell.folder, folder / cell.folder.relative_to(grid.folder), source)
    index = Index.of(grid)
    index.save(folder)
    write_text_atomic(folder / "table.md", f"# {index.title}\n\n{folder_table(folder)}")
    return folder


def publish_run(run: Path, target: Path, source: str) -> None:
    """Copy the results of one run, for all its read-outs."""
    here: dict[str, Any] = {"stream": {"source": source, "root": None}, "backbone": {"weights": None}}
    for found in sorted(run.rglob("results.json")):
        results = RunResults.load(found)
        config = merged(results.config, here)
        skipped = [s.model_copy(update={"path": PurePosixPath(s.path).name}) for s in results.skipped]
        results.model_copy(update={"config": config, "skipped": skipped}).save(target / found.relative_to(run))


def public_source(source: str) -> str:
    """A source without the folders above it.

    >>> public_source("cifar100"), public_source("folder:somewhere/deep/pacs")
    ('cifar100', 'folder:pacs')
    """
    kind, colon, rest = source.rpartition(":")
    return f"{kind}{colon}{PurePosixPath(rest).name}"
