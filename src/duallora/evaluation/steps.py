"""The record of one task of a run, written as soon as it is measured, so that an interrupted run can go on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from duallora.errors import DualLoRAError
from duallora.evaluation.results import checksum_of
from duallora.evaluation.run_folder import REDO
from duallora.evaluation.scoring import StepScores


class StepRecord(BaseModel):
    """What was measured after a task, for every read-out, and what the task cost.

    As JSON it bears a checksum of the other entries, as results.json does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, StepScores]
    seconds: dict[str, float]
    capacity: list[float] | None
    parameters_trained: int
    bytes_kept: int
    passes_per_image: float
    images_kept: int
    peak_memory_bytes: int | None = None
    notes: list[str] = []
    began: datetime
    ended: datetime

    @classmethod
    def empty(cls) -> StepRecord:
        """A task after which nothing was measured (a cumulative method that trains at the end only)."""
        now = datetime.now(UTC)
        return cls(
            scores={},
            seconds={},
            capacity=None,
            parameters_trained=0,
            bytes_kept=0,
            passes_per_image=1.0,
            images_kept=0,
            began=now,
            ended=now,
        )

    @model_serializer(mode="wrap")
    def _sealed(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return data | {"checksum": checksum_of(data)} if info.mode_is_json() else data


def load_steps(folder: Path) -> list[StepRecord]:
    """The records of tasks 1, 2, ... as far as they go without a gap or a broken file.

    Those of an earlier version bear no checksum, and are taken as they are: no run begun with it shall be lost.

    Raises:
        DualLoRAError: one was altered since it was written.
    """
    steps: list[StepRecord] = []
    while (path := folder / f"{len(steps):03d}.json").exists():
        try:
            data = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            break
        # Before the figures are looked at: what was altered into nonsense is named too, not done over unasked.
        if data.pop("checksum", None) not in (None, checksum_of(data)):
            raise DualLoRAError(
                f"'{path}' was altered: its checksum is that of other figures; {REDO}, or give another --out"
            )
        try:
            steps.append(StepRecord.model_validate(data))
        except ValidationError:
            break
    return steps
