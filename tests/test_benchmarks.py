"""The published results: tables in pages come from files, and the files tell nothing of a machine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from duallora.backbone import Backbone
from duallora.bench.aggregate import WITHOUT_CLASS_STATISTICS, collect, tables
from duallora.bench.cells import make_grid, merged
from duallora.bench.include import with_included
from duallora.bench.index import Index
from duallora.bench.load import load_suite
from duallora.bench.publish import public_source
from duallora.bench.state import difference
from duallora.config import RunConfig, load_config
from duallora.evaluation.results import RunResults
from duallora.methods.registry import get_method
from duallora.training.settings import TrainingSettings

RATES = ("a third", "as recommended", "three times", "ten times", "thirty times")
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


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_every_table_has_a_row_without_adaptation(folder: Path) -> None:
    for held in tables([line for line in collect(folder, Index.load(folder)) if line.runs]).values():
        (line,) = (line for line in held if line.kind == "no adaptation")
        assert line.figure("a_last") is not None


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_results_are_of_the_suites_settings(folder: Path) -> None:
    """What a table says of a row was measured under what the suite says of it now."""
    grid = make_grid(folder.name, load_suite(folder.name)[1], folder.parent)
    places = {cell.folder.relative_to(grid.folder): cell.config.model_dump(mode="json") for cell in grid.cells}
    found = {path.parent.relative_to(folder): RunResults.load(path) for path in folder.glob("*/*/results.json")}
    assert found
    assert set(found) <= set(places)
    for place, results in found.items():
        source = {"stream": {"source": public_source(places[place]["stream"]["source"]), "root": None}}
        wanted = RunConfig.model_validate(merged(places[place], source))
        assert results.config["stream"]["source"] == wanted.stream.source, place
        assert difference(results.config, wanted, finished=True) is None, place


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
        assert "\nold\n" not in text
    by_variant = docs.filled("<!-- table: search by variant -->\nold\n<!-- end -->", RESULTS)
    assert "| row | a third | as recommended | three times |" in by_variant
    by_readout = docs.filled(f"<!-- table: {name} by read-out -->\nold\n<!-- end -->", RESULTS)
    assert "| row | runs | read-out | A last |" in by_readout
    assert "old" not in by_readout
    assert (
        docs.filled("<!-- table: nowhere -->\nkept\n<!-- end -->", RESULTS)
        == "<!-- table: nowhere -->\nkept\n<!-- end -->"
    )


def test_searched_rates_are_the_best_that_the_search_found() -> None:
    """Within half a point in each table; class Gaussians below `ncm` may stay there."""
    lines = [line for line in collect(RESULTS / "search", Index.load(RESULTS / "search")) if line.runs]
    ncm = next(line.figure("a_last").mean for line in lines if line.row == "ncm")
    found: dict[tuple[str, str], dict[float, float]] = {}
    for group, held in tables(lines).items():
        for line in held:
            config, mean = line.runs[0].config, line.figure("a_last").mean
            if line.row.partition(", ")[::2] not in [(config["method"]["name"], rate) for rate in ("", *RATES)]:
                continue  # another size, other epochs, the same at a second rate
            by_rate = found.setdefault((group, config["method"]["name"]), {})
            rate = config["training"]["learning_rate"]
            by_rate[rate] = max(mean, by_rate.get(rate, 0.0))
    rows = with_included({"include": ["standard", "searched"]}, "here")["rows"]
    seen = set()
    for name, row in rows.items():
        method, readouts = row["method"]["name"], set(row.get("readouts", ()))
        if method in ("ncm", "slda", "joint") or row["method"].get("options"):
            continue
        recommended = get_method(method).recommended.get("learning_rate", TrainingSettings().learning_rate)
        rate = row.get("training", {}).get("learning_rate", recommended)
        for group in ("none", "statistics"):
            there = (
                readouts & set(WITHOUT_CLASS_STATISTICS) if group == "none" else readouts - {*WITHOUT_CLASS_STATISTICS}
            )
            by_rate = found.get((group, method))
            if by_rate and (there or not readouts):
                most = max(by_rate.values())
                assert by_rate[rate] >= most - 0.005 or (group == "statistics" and most < ncm), (name, group)
                seen.add((group, method))
    assert seen == {key for key in found if key[1] not in ("ncm", "joint")}


def test_drift_is_measured_block_by_block(monkeypatch: pytest.MonkeyPatch, backbones: Callable[..., Backbone]) -> None:
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones())
    config = load_config("digits", ["stream.max_per_class=4", "training.epochs=1", "training.learning_rate=0.05"])
    drift = script("drift").drift
    free = drift(config, "lora", {})
    held = drift(config, "duallora", {"residual": "none", "orthogonal_rate": 1.0, "energy": 1.0, "reserve": 0})
    assert len(free) == len(held) == 2
    assert free[0] == 0  # nothing that the first block reads has changed
    assert held[1] < free[1] / 2


def test_ratios_pair_the_two_sides() -> None:
    calls: list[str] = []
    found = script("speed").ratio(
        lambda: (calls.append("ours"), time.sleep(0.002)), lambda: (calls.append("theirs"), time.sleep(0.02)), rounds=3
    )
    assert calls == ["ours", "theirs"] * 4  # the first of each is not timed
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["ratio"] > 2  # slept ten times as long


def test_tables_of_single_files() -> None:
    docs = script("docs")
    at = {"backbone": "bundled", "image_size": 64, "batch": 256}
    pair = {"ratio": 0.875, "low": 0.8, "high": 0.9, "ours_seconds": 0.12, "theirs_seconds": 0.105}
    speed = {"device": "cpu", "precision": "bf16", "tasks": 7, "inference_vs_timm": [at | pair]}
    text = docs.speed(
        speed | {"training_step_vs_peft": "peft is not installed", "statistics_share_of_20_epochs": 0.042}
    )
    assert "plain timm: `bundled` at 64 px, 256 images at once | 0.88 | 0.80 to 0.90 | 0.120 | 0.105 |" in text
    assert "PEFT" not in text and "4.2 % of 20 epochs" in text
    moved = {"lora": [0.0, 0.5], "ours": [0.0, 0.005]}
    text = docs.drift({"relative_drift": moved, "factor_against_lora": {"lora": [None, 1.0], "ours": [None, 100.0]}})
    assert "| ours | drift | 0.0000 | 0.0050 |" in text
    assert "| ours | `lora` moves so many times as far | - | 100 |" in text


MORE = ("half the size", "twice the size", "twice the epochs")
BETTER_LONGER = {"olora", "inflora"}  # docs/benchmarks.md says so, and where that leaves them


def test_sizes_and_epochs_are_those_that_the_search_found() -> None:
    """Another size or twice the epochs raises the best line of a row by a point at most: so much is chance."""
    rows = with_included({"include": ["standard", "searched"]}, "here")["rows"]
    lines = [line for line in collect(RESULTS / "search", Index.load(RESULTS / "search")) if line.runs]

    def best(name: str, variants: tuple[str, ...], row: dict[str, Any], rate: float | None = None) -> float:
        shown, wanted = row.get("readouts"), {f"{name}, {variant}" for variant in variants}
        held = [line for line in lines if line.row in wanted and (shown is None or line.readout in shown)]
        return max(
            line.figure("a_last").mean
            for line in held
            if rate in (None, line.runs[0].config["training"]["learning_rate"])
        )

    compared = {line.row.partition(", ")[0] for line in lines if line.row.partition(", ")[2] in MORE}
    for name in compared:
        method, row = rows[name]["method"]["name"], rows[name]
        recommended = get_method(method).recommended.get("learning_rate", TrainingSettings().learning_rate)
        usual = best(method, RATES, row, row.get("training", {}).get("learning_rate", recommended))
        assert (best(name, MORE, row) > usual + 0.01) is (name in BETTER_LONGER), name
    assert {"duallora", "ranpac", "clora", "slca", *BETTER_LONGER} <= compared
