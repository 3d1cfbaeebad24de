"""Runs of a row are averaged only where they learned the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duallora.bench.alike import check_alike, extent
from duallora.bench.cells import Cell, Grid
from duallora.bench.state import state_of
from duallora.errors import DualLoRAError

Make = Callable[..., Grid]


def states(grid: Grid) -> dict[Cell, Any]:
    return {cell: state_of(cell) for cell in grid.cells}


def test_orders_of_as_many_images_are_alike(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of()
    for cell in grid.cells:
        finished(cell)
    check_alike(states(grid), {})
    left = grid.cells[-1]
    check_alike(states(grid), {left: extent(left, 3, 603)})


def test_a_run_on_fewer_images_is_named_before_another_joins_it(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of()
    first, second = (cell for cell in grid.cells if cell.row == "lora")
    finished(first)
    with pytest.raises(DualLoRAError) as raised:
        check_alike(states(grid), {second: extent(second, 3, 900)})
    assert str(raised.value) == (
        "lora/order-0 ran on 603 training images in 3 tasks, another run of its row on 900 training images in 3 tasks: "
        "the images have changed in between. Start over with --redo lora/order-0, or give another --out"
    )
    check_alike(states(grid), {first: extent(first, 3, 900), second: extent(second, 3, 900)})  # it starts over


def test_finished_runs_of_other_task_counts_are_told_apart(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of()
    first, second = (cell for cell in grid.cells if cell.row == "lora")
    finished(first, steps=4)
    finished(second)
    with pytest.raises(DualLoRAError, match=r"lora/order-0 ran on 806 .* in 4 tasks, .* on 603 .* in 3 tasks"):
        check_alike(states(grid), {})


def test_of_the_first_few_tasks_each_order_has_other_images(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of({"overrides": ["stream.max_tasks=3"]})
    first, second = (cell for cell in grid.cells if cell.row == "lora")
    finished(first)
    check_alike(states(grid), {second: extent(second, 3, 900)})
    with pytest.raises(DualLoRAError, match=r"lora/order-0 ran on 3 tasks, .* on 2 tasks"):
        check_alike(states(grid), {second: extent(second, 2, 603)})
