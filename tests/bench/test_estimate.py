"""How long it will take, and what that rests on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duallora.bench.cells import Grid
from duallora.bench.estimate import GUESS, IMAGES, START, estimates
from duallora.bench.state import State, state_of
from duallora.evaluation.steps import StepRecord

Make = Callable[..., Grid]


def test_without_anything_it_is_a_guess_that_says_so(grid_of: Make) -> None:
    grid = grid_of({"overrides": ["backbone.image_size=224"]})
    states = {cell: State("missing") for cell in grid.cells}
    found = estimates(grid.cells, states, "cpu", lambda stream: 40)
    slda, lora = (found[cell] for cell in grid.cells[:2])
    assert lora.seconds - START == pytest.approx(40 * 3 * GUESS["cpu"][1])
    assert slda.seconds - START == pytest.approx(40 * 2 * GUESS["cpu"][1])  # trains nothing: no epochs
    assert lora.basis == "guessed 250 ms per image and pass on cpu; 40 images x 3 passes"
    small = grid_of({"overrides": ["backbone.image_size=112"]}).cells[1]
    quarter = estimates([small], {small: State("missing")}, "cpu", lambda stream: 40)[small]
    assert quarter.seconds - START == pytest.approx((lora.seconds - START) / 4)
    blind = estimates(grid.cells, states, "cpu")[grid.cells[0]]
    assert f"{IMAGES:,} images, a guess" in blind.basis


def test_finished_cells_tell_more(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of(rows={"a": {"method": {"name": "lora"}}, "b": {"method": {"name": "lora"}}})
    done, other, again, _ = grid.cells
    run = finished(done)
    took = sum(run.total_seconds.values())
    states = {cell: state_of(cell) for cell in grid.cells}
    found = estimates([other, again], states, "cpu")
    assert found[again].basis == "1 finished of this row"
    assert found[again].seconds == pytest.approx(START + took)
    assert found[other].basis.startswith("the speed of other rows; 603 images x 3 passes")
    assert found[other].seconds == pytest.approx(START + took)
    half = states | {again: State("half", steps=(StepRecord.empty(),))}
    found = estimates([again], half, "cpu")
    assert found[again].seconds == pytest.approx(START + took * 2 / 3)  # one of three tasks is done
    assert "1 tasks are done" in found[again].basis


def test_epochs_and_images_scale(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of(rows={"a": {"method": {"name": "lora"}}})
    more = grid_of(
        {"overrides": ["training.epochs=7", "stream.max_per_class=8"]}, rows={"a": {"method": {"name": "lora"}}}
    )
    run = finished(grid.cells[0])
    states = {grid.cells[0]: state_of(grid.cells[0]), more.cells[1]: State("missing")}
    expected = sum(run.total_seconds.values()) * (7 + 2) / (1 + 2) * 8 / 4
    assert estimates([more.cells[1]], states, "cpu")[more.cells[1]].seconds == pytest.approx(START + expected)
