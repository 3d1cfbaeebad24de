"""Small but complete runs, made up."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from duallora.evaluation.results import BackboneRecord, MachineRecord, RunResults, TaskRecord


def make_run(**changes: Any) -> RunResults:
    """A run of `steps` tasks of two classes; figures depend on `method` and `seed`; any field can be replaced."""
    steps = changes.pop("steps", 3)
    method, seed = changes.get("method", "duallora"), changes.get("seed", 0)
    level, loss = {"lora": (0.9, 0.25), "joint": (0.95, 0.01), "slda": (0.85, 0.03)}.get(method, (0.92, 0.05))
    dice = random.Random(f"{method} {seed}")
    classes = [f"{adjective} {noun}" for noun in ("cat", "dog", "ship", "tree") for adjective in range(20)]
    names = changes.pop("names", None) or classes[: 2 * steps]
    matrix: list[list[float | None]] = [
        [max(0.02, level - loss * (i - j) - 0.04 * dice.random()) if j <= i else None for j in range(steps)]
        for i in range(steps)
    ]
    if changes.pop("last_only", False):
        matrix[:-1] = [[None] * steps for _ in range(steps - 1)]
    given = [[None if value is None else min(1.0, value + 0.04) for value in row] for row in matrix]
    started = datetime(2025, 11, 22, 18, 0, tzinfo=UTC)
    measured = [row[i] is not None for i, row in enumerate(matrix)]
    fields: dict[str, Any] = {
        "method": method,
        "scenario": "class-incremental",
        "tasks": [
            TaskRecord(
                name=f"task {t}", classes=names[2 * t : 2 * t + 2], train_images=200 + t, test_images=40 + 10 * t
            )
            for t in range(steps)
        ],
        "accuracy_matrix": matrix,
        "task_il_matrix": given,
        "task_id_accuracy": [0.95 - 0.03 * t if t and measured[t] else None for t in range(steps)],
        "calibration_error": [0.03 + 0.01 * t if measured[t] else None for t in range(steps)],
        "class_order": names,
        "seed": seed,
        "backbone": BackboneRecord(name="bundled", sha256="ab12" * 16, dim=192, depth=6),
        "config": {"method": {"name": method, "options": {"rank": 8}}, "seed": seed, "stream": {"seed": seed}},
        "machine": MachineRecord.describe("cpu", threads=1),
        "seconds": {"begin": 0.5, "train": [12.0 + dice.random() for _ in range(steps)], "evaluate": [1.5] * steps},
        "peak_memory_bytes": 812_000_000,
        "parameters_trained": [36_864 + 386 * t for t in range(steps)],
        "bytes_kept": [150_000 * (t + 1) for t in range(steps)],
        "passes_per_image": 1.0,
        "images_kept": 0,
        "capacity": None,
        "started": started,
        "finished": started + timedelta(minutes=3),
        "versions": {"python": "3.11.2", "torch": "2.13.0", "duallora": "0.1.0"},
    }
    if method == "duallora":
        fields["capacity"] = [[min(1.0, (0.08 + 0.01 * b) * (t + 1)) for b in range(6)] for t in range(steps)]
    return RunResults.from_matrix(**(fields | changes))
