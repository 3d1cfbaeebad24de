"""Small suites and made-up runs for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duallora.bench.cells import Grid, make_grid
from duallora.bench.suite import Suite
from duallora.evaluation.results import RunResults
from duallora.methods import get_method

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are imported one by one, so a shared helper needs a path

SUITE: dict[str, Any] = {
    "title": "Tiny",
    "base": {
        "stream": {"source": "digits", "increment": 5, "max_per_class": 4, "max_test_per_class": 4},
        "backbone": {"name": "test_vit", "pretrained": False, "image_size": 32},
        "training": {"epochs": 1, "precision": "float32"},
    },
    "orders": [1, 2],
    "rows": {"slda": {"method": {"name": "slda"}}, "lora": {"method": {"name": "lora"}}},
}


@pytest.fixture
def make_run() -> Callable[..., RunResults]:
    from made_up_runs import make_run

    return make_run


@pytest.fixture
def grid_of(tmp_path: Path) -> Callable[..., Grid]:
    """A grid of the tiny suite with some of its keys replaced."""

    def make(options: dict[str, Any] | None = None, **changes: Any) -> Grid:
        return make_grid("tiny", Suite.model_validate(SUITE | changes), tmp_path / "runs", **(options or {}))

    return make


@pytest.fixture
def finished(make_run: Callable[..., RunResults]) -> Callable[..., RunResults]:
    """Leave what a finished cell leaves, with made-up figures: by all read-outs of its method, or by some."""

    def finish(cell: Any, readouts: tuple[str, ...] = (), method: str = "", **changes: Any) -> RunResults:
        name = method or cell.config.method.name
        found = []
        readouts = readouts or get_method(name).readouts
        for readout in readouts:
            config = cell.config.model_dump(mode="json")
            config["method"]["readout"] = readout
            run = make_run(**({"method": name, "seed": cell.order, "config": config} | changes))
            own = readout == readouts[0]
            run.save(cell.folder / ("results.json" if own else f"readouts/{readout}/results.json"))
            found.append(run)
        (cell.folder / "config.json").write_text(cell.config.model_dump_json())
        return found[0]

    return finish
