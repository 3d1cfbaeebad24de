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
from duallora.bench.aggregate import WITHOUT_CLASS_STATISTICS, Line, collect, tables
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


def searched() -> list[tuple[str, str, str, Line]]:
    """Lines of the search: table, name, variant, line."""
    lines = [line for line in collect(RESULTS / "search", Index.load(RESULTS / "search")) if line.runs]
    return [
        (group, *line.row.partition(", ")[::2], line)
        for group, held in tables(lines).items()
        for line in held
        if line.row != "ncm"
    ]


def own_tables(name: str, rows: dict[str, Any]) -> list[str]:
    """The tables that a row's settings are for: of two rows of a method one for each."""
    if name.endswith("-slow"):
        return ["statistics"]
    if f"{name}-slow" in rows:
        return ["none"]
    row = rows[name]
    readouts = set(row.get("readouts", ("heads", "gaussian")))
    kept = {"statistics": readouts - {*WITHOUT_CLASS_STATISTICS}, "none": readouts & {*WITHOUT_CLASS_STATISTICS}}
    return [group for group, found in kept.items() if found]


def rate_of(row: dict[str, Any]) -> float:
    """The learning rate that a row trains at: its own, else what the method recommends."""
    recommended = get_method(row["method"]["name"]).recommended
    return row.get("training", recommended).get("learning_rate", TrainingSettings().learning_rate)


def test_searched_rates_are_the_best_that_the_search_found() -> None:
    """Within half a point in each table; class Gaussians below `ncm` may stay there."""
    lines = [line for line in collect(RESULTS / "search", Index.load(RESULTS / "search")) if line.runs]
    ncm = next(line.figure("a_last").mean for line in lines if line.row == "ncm")
    found: dict[tuple[str, str], dict[float, float]] = {}
    for group, name, variant, line in searched():
        if variant in RATES and name not in ("joint", "duallora-first-session"):
            by_rate, rate = found.setdefault((group, name), {}), line.runs[0].config["training"]["learning_rate"]
            by_rate[rate] = max(line.figure("a_last").mean, by_rate.get(rate, 0.0))
    seen = set()
    rows = with_included({"include": ["standard", "searched"]}, "here")["rows"]
    for name, row in rows.items():
        for group in own_tables(name, rows):
            key = group, name.removesuffix("-slow")
            if by_rate := found.get(key):
                most = max(by_rate.values())
                assert by_rate[rate_of(row)] >= most - 0.005 or (group == "statistics" and most < ncm), (name, group)
                seen.add(key)
    assert seen == set(found)


MORE = ("half the size", "twice the size", "twice the epochs")
BETTER = {("none", name) for name in ("sora", "lora", "l2p", "inflora", "olora")} | {("statistics", "ease")}
"""Rows that gain more, as docs/benchmarks.md says."""


def test_sizes_and_epochs_are_those_that_the_search_found() -> None:
    """Another size or twice the epochs raises a row in neither table by more than a point: so much is chance.

    Class Gaussians below `ncm` may gain.
    """
    rows = with_included({"include": ["standard", "searched"]}, "here")["rows"]
    best: dict[tuple[str, str, bool], float] = {}
    for group, name, variant, line in searched():
        if variant not in (*MORE, *RATES):
            continue
        for row in {name, f"{name}-slow"} & set(rows) if variant in RATES else {name} & set(rows):
            own_rate = line.runs[0].config["training"]["learning_rate"] == rate_of(rows[row])
            if own_rate and group in own_tables(row, rows):
                key = group, row, variant in MORE
                best[key] = max(line.figure("a_last").mean, best.get(key, 0.0))
    lines = collect(RESULTS / "search", Index.load(RESULTS / "search"))
    ncm = next(line.figure("a_last").mean for line in lines if line.row == "ncm")
    compared = {
        (group, name) for group, name, more in best if more and (group == "none" or best[group, name, more] > ncm)
    }
    for group, name in compared:
        gain = round(best[group, name, True] - best[group, name, False], 4)
        assert (gain > 0.01) is ((group, name) in BETTER), (group, name, gain)
    assert {name for _, name in compared} >= {"duallora", "ranpac", "clora", "slca"}
    assert compared >= BETTER
    resized = with_included({"include": "resized"}, "here")["rows"]
    assert {name.rpartition("-")[0] for name in resized} == {name for _, name in BETTER}
    for row in resized.values():  # each is trained as the best line of its method in the search was
        name = row["method"]["name"]
        (group,) = (group for group, better in BETTER if better == name)
        held = [line for at, of, _, line in searched() if (at, of) == (group, name)]
        best_run = max(held, key=lambda line: line.figure("a_last").mean).runs[0].config
        suite = load_suite("cifar100-10-small")[1]
        assert {**suite.base.training, **row["training"]}.items() <= best_run["training"].items(), name
        assert row["method"].get("options", {}).items() <= best_run["method"]["options"].items(), name
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    told = page[page.index("Another size or twice the epochs") :].partition("\n\n")[0]
    assert all(f"`{name}`" in told for _, name in BETTER)


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
