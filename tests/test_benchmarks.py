"""The published results: tables in pages come from files, and the files tell nothing of a machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from duallora.bench.aggregate import collect
from duallora.bench.index import Index

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir())


def script(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_results_can_be_read(folder: Path) -> None:
    lines = collect(folder, Index.load(folder))
    assert any(line.runs for line in lines)
    for line in lines:
        for run in line.runs:
            config = run.config
            assert "/" not in config["stream"]["source"]
            assert config["stream"]["root"] is None
            assert config["backbone"]["weights"] is None


def test_tables_in_pages_are_those_of_the_results(tmp_path: Path) -> None:
    """What README and docs show is what the files say: run `python benchmarks/docs.py` after new results."""
    docs = script("docs")
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert docs.filled(text, RESULTS) == text, page.name
    name = PUBLISHED[0].name
    whole, brief = (
        docs.filled(f"a\n<!-- table: {name}{how} -->\nold\n<!-- end -->\nz", RESULTS) for how in ("", " brief")
    )
    assert "**Cost**" in whole
    assert "**Cost**" not in brief
    for text in (whole, brief):
        assert text.startswith("a\n<!-- table: ")
        assert text.endswith("<!-- end -->\nz")
        assert "old" not in text
    assert (
        docs.filled("<!-- table: nowhere -->\nkept\n<!-- end -->", RESULTS)
        == "<!-- table: nowhere -->\nkept\n<!-- end -->"
    )
