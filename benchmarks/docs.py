#!/usr/bin/env python3
"""Write the tables of benchmarks/results into README.md and docs/: no figure is typed by hand.

    python benchmarks/docs.py

A page says where a table goes by a line `<!-- table: NAME -->`, or `<!-- table: NAME brief -->` for one with fewer
columns; what stands between it and `<!-- end -->` is replaced by the tables of benchmarks/results/NAME.
"""

from __future__ import annotations

import re
from pathlib import Path

from duallora.bench.table import folder_table

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+)(?P<brief> brief)? -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """The page with every table renewed; a table whose results are missing is left as it is."""

    def table(block: re.Match[str]) -> str:
        held = results / block["name"]
        if not held.is_dir():
            return block[0]
        return f"{block[1]}\n{folder_table(held, brief=block['brief'] is not None).strip()}\n\n{block[4]}"

    return BLOCK.sub(table, text)


def main() -> None:
    """Renew all pages."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text, ROOT / "benchmarks" / "results")) != text:
            page.write_text(new, encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
