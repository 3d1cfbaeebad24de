"""The record of one task of a run, written as soon as it is measured, so that an interrupted run can go on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from duallora.evaluation.scoring import StepScores


class StepRecord(BaseModel):
    """What was measured after a task, for every read-out, and what the task cost."""

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


def load_steps(folder: Path) -> list[StepRecord]:
    """The records of tasks 1, 2, ... as far as they go without a gap or a broken file."""
    steps: list[StepRecord] = []
    while (path := folder / f"{len(steps):03d}.json").exists():
        try:
            steps.append(StepRecord.model_validate_json(path.read_text()))
        except (ValidationError, ValueError):
            break
    return steps
