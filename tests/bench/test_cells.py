"""From a suite to runs: what wins over what, where each lies, which are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duallora.bench.cells import Grid, chosen_cells, folder_name, named_cells
from duallora.errors import DualLoRAError

Make = Callable[..., Grid]
PROTOCOL: dict[str, Any] = {
    key: "unknown" for key in ("weights", "class_order", "split", "epochs", "transforms", "metric")
} | {"figures": {"X": {"source": "s"}}}


def test_orders_and_seeds_each_have_a_folder_and_rows_come_last(grid_of: Make) -> None:
    grid = grid_of(orders=[7, "natural", [str(i) for i in range(10)]], seeds=[0, 5])
    names = [cell.name for cell in grid.cells]
    assert names[:4] == ["slda/order-0", "lora/order-0", "slda/order-0-seed-5", "lora/order-0-seed-5"]
    assert len(set(names)) == 12
    streams = [cell.config.stream for cell in grid.cells[::4]]
    assert [(s.order_seed, s.order) for s in streams] == [(7, None), (None, None), (None, list("0123456789"))]
    assert [cell.config.seed for cell in grid.cells[:3]] == [0, 0, 5]
    assert grid_of().cells[0].folder == grid.cells[0].folder  # a seed added later moves nothing


def test_what_wins_over_what(grid_of: Make) -> None:
    rows = {"a": {"method": {"name": "slda"}}, "b": {"method": {"name": "slda"}, "training": {"epochs": 3}}}
    protocol = PROTOCOL | {"set": {"training": {"epochs": 2, "batch_size": 8}}, "orders": ["natural"], "seeds": [1, 2]}
    protocol |= {"rows": {"b": {"training": {"batch_size": 4}}}}
    grid = grid_of({"protocol": "p"}, rows=rows, protocols={"p": protocol})
    assert grid.folder.name == "tiny-p"
    assert len(grid.cells) == 4
    a, b = grid.cells[:2]
    assert (a.config.training.epochs, a.config.training.batch_size) == (2, 8)
    assert (b.config.training.epochs, b.config.training.batch_size) == (3, 4)
    last = grid_of({"overrides": ["training.epochs=9"], "source": "npz:x.npz"}, rows=rows)
    assert {cell.config.training.epochs for cell in last.cells} == {9}
    assert {cell.config.stream.source for cell in last.cells} == {"npz:x.npz"}
    assert {cell.source for cell in last.cells} == {"digits"}


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({}, {"rows": {"a": {"method": {"name": "dualora"}}}}, "did you mean 'duallora'"),
        ({}, {"rows": {"a": {"method": {"name": "lora", "options": {"rnk": 1}}}}}, "row 'a': method.options of 'lora'"),
        (
            {},
            {"rows": {"a": {"training": {"epoch": 1}}}},
            "row 'a': unknown key 'training.epoch'; did you mean 'epochs'",
        ),
        ({}, {"rows": {"Lora": {}, "lora": {}}}, "rows 'Lora' and 'lora' would share a folder"),
        ({"overrides": ["trainig.epochs=1"]}, {}, "did you mean 'training'"),
        ({"overrides": ["stream.order_seed=7"]}, {}, "cannot set orders: suite 'tiny' has orders of its own"),
        ({"overrides": ["seed=5"]}, {"seeds": [0, 1]}, "cannot set seeds: suite 'tiny' has seeds of its own"),
        ({"overrides": ["stream={source: digits, increment: 5}"]}, {}, "cannot set orders: suite 'tiny' has orders"),
        ({}, {"rows": {"a": {"stream": {"order_seed": 1}}}}, "row 'a': leave out stream.order_seed; 'orders'"),
        ({}, {"rows": {"a": {"seed": 1}}, "seeds": [0, 1]}, "row 'a': leave out seed; 'seeds'"),
        ({"protocol": "p"}, {}, "states no protocols"),
        (
            {},
            {"rows": {"lora": {"readouts": ["headz"]}}},
            "read-out in suite 'tiny': row 'lora' 'headz'; did",
        ),
        ({}, {"rows": {"lora": {"group": {"headz": "both"}}}}, "'headz'; did you mean 'heads'"),
        ({"protocol": "q"}, {"protocols": {"pq": PROTOCOL}}, "unknown protocol of suite 'tiny' 'q'; did you mean 'pq'"),
        ({"protocol": "p"}, {"protocols": {"p": PROTOCOL | {"rows": {"lor": {}}}}}, "did you mean 'lora'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_run_does_not_know_is_found_before_it(
    options: dict[str, Any], changes: dict[str, Any], said: str, grid_of: Make
) -> None:
    with pytest.raises(DualLoRAError) as raised:
        grid_of(options, **changes)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({"overrides": ["seed=1", "trainng.epochs=1"]}, {}, "--set trainng.epochs=1: unknown key 'trainng'; did you"),
        ({"overrides": ["training.epochs=many"]}, {}, "--set training.epochs=many: training.epochs = 'many': "),
        ({}, {"base": {"stream": {"sorce": "x"}}}, "suite 'tiny': base: unknown key 'stream.sorce'; did you mean 'so"),
        (
            {"protocol": "p"},
            {"protocols": {"p": PROTOCOL | {"set": {"training": {"epoch": 1}}}}},
            "suite 'tiny': protocol 'p': set: unknown key 'training.epoch'; did you mean 'epochs'",
        ),
        (
            {"protocol": "p"},
            {"protocols": {"p": PROTOCOL | {"rows": {"lora": {"training": {"epoch": 1}}}}}},
            "suite 'tiny': protocol 'p': row 'lora': unknown key 'training.epoch'; did you mean 'epochs'",
        ),
    ],
    ids=["override", "value", "base", "set", "protocol's row"],
)
def test_a_mistake_is_told_of_the_place_that_has_it(
    options: dict[str, Any], changes: dict[str, Any], said: str, grid_of: Make
) -> None:
    """Not of the first row that takes it up."""
    with pytest.raises(DualLoRAError) as raised:
        grid_of(options, **changes)
    assert str(raised.value).startswith(said)


def test_rows_and_orders_are_chosen(grid_of: Make) -> None:
    grid = grid_of()
    assert [cell.name for cell in chosen_cells(grid, ["lora"], 1)] == ["lora/order-0"]
    assert len(chosen_cells(grid)) == 4
    plain = grid_of(rows={name: {"method": {"name": name}} for name in ("slda", "lora", "ncm")})
    assert [cell.name for cell in chosen_cells(plain, ["lora"], 1)] == ["lora/order-0", "ncm/order-0"]
    with pytest.raises(DualLoRAError, match="unknown row of suite 'tiny' 'loar'; did you mean 'lora'"):
        chosen_cells(grid, ["loar"])
    with pytest.raises(DualLoRAError, match="has 2: give 1 to 2"):
        chosen_cells(grid, orders=3)


def test_cells_are_named(grid_of: Make) -> None:
    cells = grid_of(rows={"a/b": {"method": {"name": "slda"}}, "a": {"method": {"name": "ncm"}}}).cells
    assert [cell.name for cell in named_cells(cells, ["a/b", "a/1"])] == ["a/b/order-0", "a/b/order-1", "a/order-1"]
    assert named_cells(cells, ["a/b/order-1"])[0].row == "a/b"
    with pytest.raises(DualLoRAError, match=r"unknown cell 'a/2'.*Known: a/0, a/1, a/order-0, a/order-1$"):
        named_cells(cells, ["a/2"])


def test_any_name_of_a_row_makes_a_folder() -> None:
    names = ["inflora+gaussian", "+ carry, heads", "+ carry; heads", "a/b", "..", "größe", "x" * 300, "a.", "CON:", ""]
    folders = [folder_name(name) for name in names]
    assert folders[0] == names[0]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert folder[0].isalnum() and folder[-1] != "." and len(folder) < 80
        assert not set(folder) & set('/\\:*?"<>| ')
