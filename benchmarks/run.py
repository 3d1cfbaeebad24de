#!/usr/bin/env python3
"""Run a grid of methods and class orders, resume it after anything, and write its table.

    python benchmarks/run.py benchmarks/suites/cifar100-10.yaml [--source npz:cifar100.npz] [--only ROW ...] [--table]

A suite names a base configuration (as for `duallora run`), what differs between its rows, and the class orders. Each
cell is a run folder under runs/<suite>/<row>/order-<n>; finished cells are skipped, a broken-off one goes on after
its last task. Results (JSON only) are copied to benchmarks/results/<suite>/, from which the table is made: no figure
is typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from table import write_table

from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.evaluation.runner import run
from duallora.settings import validated

HERE = Path(__file__).resolve().parent


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, key by key."""
    out = dict(base)
    for key, value in change.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def cells(suite: dict[str, Any], source: str | None, only: list[str]) -> Iterator[tuple[str, int, RunConfig]]:
    """(row, order, configuration) of every cell; orders outermost, so that a part of the grid compares all rows."""
    for order in suite["orders"]:
        for row, change in suite["rows"].items():
            if only and row not in only:
                continue
            data = merged(suite["base"], change or {})
            if data["stream"].get("scenario") == "domain-incremental":
                data["stream"]["order"] = order
            else:
                data["stream"]["order_seed"] = order
            if source:
                data["stream"]["source"] = source
            yield row, suite["orders"].index(order), validated(RunConfig, data, f"row {row}")


def publish(cell: Path, target: Path, source: str) -> None:
    """Copy the results of a run, for all its read-outs; where the images lay on this machine is nobody's business."""
    for found in cell.rglob("results.json"):
        run = RunResults.load(found)
        config = merged(run.config, {"stream": {"source": source}, "backbone": {"weights": None}})
        run.model_copy(update={"config": config}).save(target / found.relative_to(cell))


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--source", help="where the images are, if not as the suite says")
    parser.add_argument("--only", nargs="*", default=[], metavar="ROW")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--table", action="store_true", help="only write the table from the results at hand")
    args = parser.parse_args()
    suite = yaml.safe_load(args.suite.read_text())
    results = HERE / "results" / args.suite.stem
    if not args.table:
        for row, number, config in cells(suite, args.source, args.only):
            cell = args.runs / args.suite.stem / row / f"order-{number}"
            try:
                found = run(config, cell, progress=False)
            except DualLoRAError as error:
                raise SystemExit(f"{row}, order {number}: {error}") from error
            publish(cell, results / row / f"order-{number}", suite["base"]["stream"]["source"])
            print(
                f"{row} order {number}: a_last {found.a_last:.4f} seconds {sum(found.total_seconds.values()):.0f}",
                flush=True,
            )
    print(write_table(results, suite.get("title", args.suite.stem)))


if __name__ == "__main__":
    main()
