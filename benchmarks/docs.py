#!/usr/bin/env python3
"""Write the tables of benchmarks/results into README.md and docs/: no figure is typed by hand.

    python benchmarks/docs.py

A page says where a table goes by a line `<!-- table: NAME -->`, `<!-- table: NAME brief -->` for one with fewer lines
and columns, `<!-- table: NAME by read-out -->` for a line per training with a column per read-out, or
`<!-- table: NAME by variant -->` for rows called "method, variant". What stands between it and `<!-- end -->` is
replaced by the tables of benchmarks/results/NAME, a folder of runs, or of NAME.json, as drift.py and speed.py write
it; NAME `suites` is the list of those that are shipped. After `<!-- margins: NAME NAME -->` comes by how much
DualLoRA is above others in these suites, after `<!-- parts: NAME NAME -->` what its parts are worth there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from duallora.bench.load import load_suite, shipped_suites
from duallora.bench.margins import margins_table, parts_table
from duallora.bench.table import folder_table, readouts_table, variants_table

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(<!-- table: (?P<name>[\w-]+)(?P<how> brief| by read-out| by variant)? -->\n).*?(<!-- end -->)", re.DOTALL
)

ACROSS = re.compile(r"(<!-- (?P<what>margins|parts): (?P<names>[\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def speed(figures: dict[str, Any]) -> str:
    """Ratios of speed.py: above 1 we are faster."""
    rows = ["| what | ratio | lowest and highest pair | ours, s | theirs, s |", "|---|---|---|---|---|"]
    measured = [
        (
            f"inference after {figures['tasks']} tasks, against plain timm: `{held['backbone']}` at "
            f"{held['image_size']} px, {held['batch']} images at once",
            held,
        )
        for held in figures["inference_vs_timm"]
    ]
    measured.append(("training step, against PEFT's LoRA", figures["training_step_vs_peft"]))
    for name, held in measured:
        if isinstance(held, dict):
            pair = f"{held['low']:.2f} to {held['high']:.2f}"
            times = f"{held['ours_seconds']:.3f} | {held['theirs_seconds']:.3f}"
            rows.append(f"| {name} | {held['ratio']:.2f} | {pair} | {times} |")
    share = figures["statistics_share_of_20_epochs"]
    place = f"Device {figures['device']}, precision {figures['precision']}."
    return "\n".join([*rows, "", f"Statistics of a task take {100 * share:.1f} % of 20 epochs' training. {place}"])


def drift(figures: dict[str, Any]) -> str:
    """Relative drift of old class-attention features per block, and the factor against lora."""
    factors = figures["factor_against_lora"]
    blocks = range(len(next(iter(factors.values()))))
    rows = ["| method | figure | " + " | ".join(f"block {b}" for b in blocks) + " |", "|---" * (len(blocks) + 2) + "|"]
    for name, values in figures["relative_drift"].items():
        rows.append(f"| {name} | drift | " + " | ".join(f"{v:.4f}" for v in values) + " |")
        if name != "lora":
            told = ["-" if v is None else f"{v:.0f}" for v in factors[name]]
            rows.append(f"| {name} | `lora` moves so many times as far | " + " | ".join(told) + " |")
    return "\n".join(rows)


FILES: dict[str, Callable[[dict[str, Any]], str]] = {"speed": speed, "drift-digits": drift}


TABLES: dict[str | None, Callable[[Path], str]] = {
    None: folder_table,
    " brief": partial(folder_table, brief=True),
    " by read-out": readouts_table,
    " by variant": variants_table,
}


def suites() -> str:
    """The suites that come with the package."""
    rows = ["| suite | what | rows x orders | protocols |", "|---|---|---|---|"]
    for name in shipped_suites():
        _, suite = load_suite(name)
        size = f"{len(suite.rows)} x {len(suite.orders)}"
        rows.append(f"| `{name}` | {suite.title} | {size} | {', '.join(f'`{p}`' for p in suite.protocols)} |")
    return "\n".join(rows)


def filled(text: str, results: Path) -> str:
    """The page with every table renewed; a table whose results are missing is left as it is."""

    def table(block: re.Match[str]) -> str:
        if block["name"] == "suites":
            return f"{block[1]}\n{suites()}\n\n{block[4]}"
        held = results / block["name"]
        if (file := held.with_suffix(".json")).is_file():
            return f"{block[1]}\n{FILES[block['name']](json.loads(file.read_text()))}\n\n{block[4]}"
        if not held.is_dir():
            return block[0]
        written = TABLES[block["how"]](held)
        return f"{block[1]}\n{written.strip()}\n\n{block[4]}"

    def across(block: re.Match[str]) -> str:
        held = [folder for name in block["names"].split() if (folder := results / name).is_dir()]
        written = {"margins": margins_table, "parts": parts_table}[block["what"]]
        return f"{block[1]}\n{written(held)}\n{block[4]}" if held else block[0]

    return ACROSS.sub(across, BLOCK.sub(table, text))


def main() -> None:
    """Renew all pages."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text, ROOT / "benchmarks" / "results")) != text:
            page.write_text(new, encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
