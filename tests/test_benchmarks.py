"""The benchmark scripts: suites are valid, tables come from files, published results tell nothing of the machine."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from duallora.evaluation.results import RunResults
from duallora.methods import get_method
from duallora.settings import validated

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SUITES = sorted((BENCHMARKS / "suites").glob("*.yaml"))


def script(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_every_cell_of_a_suite_is_a_valid_run(suite: Path) -> None:
    data = yaml.safe_load(suite.read_text())
    cells = list(script("run").cells(data, None, []))
    assert len(cells) == len(data["rows"]) * len(data["orders"])
    for row, _, config in cells:
        validated(get_method(config.method.name).Config, config.method.options, row)


def test_published_results_do_not_tell_where_the_images_lay(tmp_path: Path) -> None:
    found = next((BENCHMARKS / "results").rglob("results.json"))
    run = RunResults.load(found)
    secret = run.config | {"stream": run.config["stream"] | {"source": "npz:/home/somebody/images.npz"}}
    (tmp_path / "cell").mkdir()
    run.model_copy(update={"config": secret}).save(tmp_path / "cell" / "results.json")
    script("run").publish(tmp_path / "cell", tmp_path / "out", "cifar100")
    text = (tmp_path / "out" / "results.json").read_text()
    assert "somebody" not in text
    assert json.loads(text)["config"]["stream"]["source"] == "cifar100"


def test_tables_in_pages_are_those_of_the_results() -> None:
    """What README and docs show is what the files say: run `python benchmarks/docs.py` after new results."""
    docs = script("docs")
    root = BENCHMARKS.parent
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert docs.filled(text, BENCHMARKS / "results") == text, page.name
