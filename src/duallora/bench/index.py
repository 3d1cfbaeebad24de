"""`suite.json` beside the runs of a suite: what its result files alone do not tell, so that tables need no YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from duallora.bench.cells import Grid, folder_name
from duallora.bench.suite import Figure, Group
from duallora.config import Closed
from duallora.errors import DualLoRAError
from duallora.files import write_json_atomic

NAME: Final = "suite.json"


class RowRecord(Closed):
    """One row of the grid."""

    folder: str
    about: str = ""
    group: Group | dict[str, Group] | None = None
    readouts: list[str] | None = None


class Index(Closed):
    """A suite as its tables need it."""

    format_version: Literal[1] = 1
    title: str
    about: str = ""
    protocol: dict[str, str] | None = Field(None, description="facts of the publication's protocol that is followed")
    runs_per_row: int | None = Field(None, description="class orders times seeds")
    changed: list[str] = Field(default_factory=list, description="set by hand for all runs, as key=value")
    images: int | None = Field(None, description="of the data set as published, training and test")
    rows: dict[str, RowRecord]
    published: dict[str, Figure] = Field(default_factory=dict)

    @classmethod
    def of(cls, grid: Grid) -> Index:
        """From a grid."""
        rows = {
            name: RowRecord(folder=folder_name(name), about=row.about, group=row.group, readouts=row.readouts)
            for name, row in grid.suite.rows.items()
        }
        told = grid.protocol
        facts = None
        if told is not None:
            names = ("about", "weights", "class_order", "split", "epochs", "transforms", "metric")
            facts = {name: str(getattr(told, name)) for name in names if getattr(told, name) != ""}
        return cls(
            title=grid.suite.title,
            about=grid.suite.about,
            protocol=facts,
            runs_per_row=len(grid.cells) // len(rows),
            changed=list(grid.changed),
            images=grid.suite.images,
            rows=rows,
            published=dict(told.figures) if told is not None else {},
        )

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read it; where there is none, every sub-folder is a row of its own name.

        Raises:
            DualLoRAError: it is broken.
        """
        path = folder / NAME
        if not path.is_file():
            names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            return cls(title=folder.name, rows={name: RowRecord(folder=name) for name in names})
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DualLoRAError(f"'{path}' is broken or altered ({reason}); run the bench again to write it") from error

    def save(self, folder: Path) -> None:
        """Write it."""
        told = json.loads(self.model_dump_json(exclude_defaults=True))
        write_json_atomic(folder / NAME, {"format_version": self.format_version} | told)
