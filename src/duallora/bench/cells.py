"""The cells of a grid: which runs there are, where each lies and what it is set to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duallora.bench.suite import NO_ADAPTATION, Order, Protocol, Row, Suite
from duallora.config import RunConfig, apply_overrides, checked_config
from duallora.errors import DualLoRAError, unknown
from duallora.files import user_path
from duallora.settings import validated

# Where something lies and how it runs, not what is run: finished results of another place are results all the same.
PLACES = ("device", "stream.root", "backbone.weights", "training.workers")


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of the grid; every cell is itself alone, so that it can be a key.

    Attributes:
        row: its row's name.
        order: place of its class order in the suite, from 0.
        seed: of weights and batches.
        folder: of the run.
        config: everything about the run.
        source: the images by the name that the suite gives them, wherever they lie on this machine.
    """

    row: str
    order: int
    seed: int
    folder: Path
    config: RunConfig
    source: str

    @property
    def name(self) -> str:
        """As one types it behind --redo."""
        return f"{self.row}/{self.folder.name}"


@dataclass(frozen=True)
class Grid:
    """All cells of a suite.

    Attributes:
        name: of the suite, and of the protocol where one is followed; its folder is called so.
        suite: what it was made from.
        protocol: the publication's protocol that is followed.
        folder: of all its runs.
        cells: orders outermost, then seeds, so that a part of the grid compares all rows.
        changed: what was set by hand for all cells, as "key=value", but for where things lie and how they run.
    """

    name: str
    suite: Suite
    protocol: Protocol | None
    folder: Path
    cells: tuple[Cell, ...]
    changed: tuple[str, ...] = ()

    @property
    def orders(self) -> int:
        """Number of class orders."""
        return len({cell.order for cell in self.cells})


def make_grid(
    name: str,
    suite: Suite,
    out: str | Path,
    *,
    protocol: str | None = None,
    source: str | None = None,
    overrides: Sequence[str] = (),
) -> Grid:
    """Every cell, its configuration checked down to the method's options, so that a mistake shows before anything runs.

    Later wins: the suite's base, the protocol, the row, the protocol's word on the row, `overrides`.

    Args:
        name: of the suite.
        suite: the suite.
        out: folder under which the grid's own lies.
        protocol: name of one of the suite's protocols.
        source: where the images are, if not as the suite says.
        overrides: "key=value" texts for all cells.

    Raises:
        DualLoRAError: no such protocol; a key or value that a run does not know; one that would make all orders or all
            seeds the same; a read-out that a row's method lacks; rows whose folders would be the same.
    """
    chosen = _chosen(name, suite, protocol)
    _check_shared(name, suite, protocol, chosen, overrides)
    name = folder_name(name)
    orders, seeds = suite.orders, suite.seeds
    base = suite.base.changes()
    if chosen is not None and protocol is not None:
        if chosen.changes_runs:  # otherwise its figures stand beside the suite's own runs
            name = f"{name}-{folder_name(protocol)}"
        base = merged(base, chosen.set.changes())
        orders, seeds = chosen.orders or orders, chosen.seeds or seeds
        if strange := sorted(set(chosen.rows) - set(suite.rows)):
            raise unknown(f"row in protocol '{protocol}' of suite '{name}'", strange[0], suite.rows)
    folder = user_path(out) / name
    _no_collisions(name, suite.rows)
    cells = []
    for number, order in enumerate(orders):
        for place, seed in enumerate(seeds or [None]):
            for row, change in suite.rows.items():
                where = f"suite '{name}': row '{row}'"
                data = _settings(base, row, change, chosen, where, order, seed)
                stated = str(data["stream"].get("source", RunConfig().stream.source))
                if source is not None:
                    data["stream"]["source"] = source
                config = checked_config(RunConfig, apply_overrides(data, overrides), where)
                _no_grid_undone(name, config, order, seed)
                _check_readouts(change, config, where)
                run = f"order-{number}" + (f"-seed-{seed}" if place else "")  # a seed added later moves nothing
                cells.append(Cell(row, number, config.seed, folder / folder_name(row) / run, config, stated))
    changed = tuple(text for text in overrides if text.partition("=")[0].strip() not in (*PLACES, "stream.source"))
    return Grid(name, suite, chosen, folder, tuple(cells), changed)


def chosen_cells(grid: Grid, only: Sequence[str] = (), orders: int | None = None) -> list[Cell]:
    """The cells of some rows and of the first orders; with them always those without adaptation.

    These take seconds, and no table says much without them.

    Raises:
        DualLoRAError: a row that the suite lacks (with the nearest that it has); more orders than it has.
    """
    for row in only:
        if row not in grid.suite.rows:
            raise unknown(f"row of suite '{grid.name}'", row, grid.suite.rows)
    if orders is not None and not 1 <= orders <= grid.orders:
        raise DualLoRAError(f"--orders is {orders}; suite '{grid.name}' has {grid.orders}: give 1 to {grid.orders}")
    first = [cell for cell in grid.cells if orders is None or cell.order < orders]
    return [cell for cell in first if not only or cell.row in only or cell.config.method.name == NO_ADAPTATION]


def named_cells(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """Cells by "ROW" (all of a row), "ROW/ORDER" or "ROW/order-N-seed-S".

    Raises:
        DualLoRAError: a name that fits no cell.
    """
    found: list[Cell] = []
    for name in names:
        row, _, place = name.rpartition("/")
        fits = [cell for cell in cells if cell.row == name]
        fits = fits or [cell for cell in cells if cell.row == row and place in (cell.folder.name, str(cell.order))]
        if not fits:
            near = [cell for cell in cells if cell.row == row] or cells
            raise unknown("cell", name, {text for cell in near for text in (f"{cell.row}/{cell.order}", cell.name)})
        found += [cell for cell in fits if cell not in found]
    return found


def folder_name(name: str) -> str:
    """A name that any file system takes; what had to be changed is told apart by a few digits of a hash.

    >>> folder_name("inflora+gaussian")
    'inflora+gaussian'
    >>> folder_name("+ carry, heads")
    'carry-heads-80253e'
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}(?<!\.)", name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._") or "row"
    return f"{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, key by key.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    out = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in change.items():
        held = out.get(key)
        out[key] = merged(held if isinstance(held, dict) else {}, value) if isinstance(value, Mapping) else value
    return out


def _chosen(name: str, suite: Suite, protocol: str | None) -> Protocol | None:
    if protocol is None:
        return None
    if not suite.protocols:
        raise DualLoRAError(f"suite '{name}' states no protocols of publications; leave --protocol out")
    if protocol not in suite.protocols:
        raise unknown(f"protocol of suite '{name}'", protocol, suite.protocols)
    return suite.protocols[protocol]


def _check_shared(
    name: str, suite: Suite, protocol: str | None, chosen: Protocol | None, overrides: Sequence[str]
) -> None:
    """Check each part that rows share alone: a mistake in one would be told as that of the first row it is laid under.

    Options of a method are left to the rows, which say whose they are.
    """
    validated(RunConfig, suite.base.changes(), f"suite '{name}': base")
    if chosen is not None:
        where = f"suite '{name}': protocol '{protocol}'"
        validated(RunConfig, chosen.set.changes(), f"{where}: set")
        for row, change in chosen.rows.items():
            validated(RunConfig, change.changes(), f"{where}: row '{row}'")
    for text in overrides:
        validated(RunConfig, apply_overrides({}, [text]), f"--set {text}")


def _check_readouts(row: Row, config: RunConfig, where: str) -> None:
    """A misspelt one would come out only after everything has run."""
    from duallora.methods.registry import get_method  # imports torch

    known = get_method(config.method.name).readouts
    for name in [*(row.readouts or ()), *(row.group if isinstance(row.group, dict) else ())]:
        if name not in known:
            raise unknown(f"read-out in {where}", name, known)


def _settings(
    base: Mapping[str, Any],
    row: str,
    change: Row,
    chosen: Protocol | None,
    where: str,
    order: Order,
    seed: int | None,
) -> dict[str, Any]:
    """What the suite and the protocol say of one cell."""
    data = merged(base, {})
    for laid in (change.changes(), chosen.rows[row].changes() if chosen is not None and row in chosen.rows else {}):
        _no_order_of_its_own(laid, seed is not None, where)
        data = merged(data, laid)
    _set_order(data.setdefault("stream", {}), order)
    return data if seed is None else data | {"seed": seed}


def _set_order(stream: dict[str, Any], order: Order) -> None:
    """Put an order into a stream's settings, in place of any that the base has."""
    stream.pop("order", None)
    stream.pop("order_seed", None)
    if isinstance(order, list):
        stream["order"] = order
    elif isinstance(order, int):
        stream["order_seed"] = order


def _no_order_of_its_own(change: Mapping[str, Any], seeded: bool, where: str) -> None:
    """Refuse a row whose order or seed the suite would lay its own over."""
    for key in ("order", "order_seed"):
        if key in change.get("stream", {}):
            raise DualLoRAError(f"{where}: leave out stream.{key}; 'orders' of the suite says it for all rows")
    if seeded and "seed" in change:
        raise DualLoRAError(f"{where}: leave out seed; 'seeds' of the suite says it for all rows")


def _no_grid_undone(name: str, config: RunConfig, order: Order, seed: int | None) -> None:
    """Refuse to set what tells the cells of a row apart: equal runs would pass for a deviation of nothing."""
    wanted: dict[str, Any] = {}
    _set_order(wanted, order)
    found = {key: value for key in ("order", "order_seed") if (value := getattr(config.stream, key)) is not None}
    kept = found == wanted
    if kept and seed in (None, config.seed):
        return
    what = "seeds" if kept else "orders"
    raise DualLoRAError(
        f"cannot set {what}: suite '{name}' has {what} of its own; change '{what}' in a copy of its file"
        + ("" if kept else ", or take the first with --orders 1")
    )


def _no_collisions(name: str, rows: Mapping[str, Row]) -> None:
    taken: dict[str, str] = {}
    for row in rows:
        folder = folder_name(row).casefold()
        if folder in taken:
            raise DualLoRAError(f"suite '{name}': rows '{taken[folder]}' and '{row}' would share a folder; rename one")
        taken[folder] = row
