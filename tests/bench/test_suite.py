"""Suites as data: what is shipped is valid, what is mistyped is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from duallora.bench.cells import make_grid
from duallora.bench.load import load_suite, shipped_suites
from duallora.bench.suite import Row, Settings
from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.methods import get_method

SMALL: dict[str, Any] = {"title": "s", "base": {}, "orders": [1], "rows": {"slda": {"method": {"name": "slda"}}}}
PROTOCOL: dict[str, Any] = {
    "weights": "augreg_in21k",
    "class_order": "natural",
    "split": "random, 80 to 20",
    "epochs": 50,
    "transforms": "unknown",
    "metric": "a_last over all images",
    "figures": {"InfLoRA": {"a_last": 75.65, "a_avg": 80.82, "source": "table 1"}},
}


def written(folder: Path, data: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("name", shipped_suites())
def test_every_cell_of_a_shipped_suite_is_a_valid_run(name: str, tmp_path: Path) -> None:
    _, suite = load_suite(name)
    for protocol in (None, *suite.protocols):
        grid = make_grid(name, suite, tmp_path, protocol=protocol)
        assert len({cell.folder for cell in grid.cells}) == len(grid.cells)
        methods = {cell.config.method.name: get_method(cell.config.method.name) for cell in grid.cells}
        assert "ncm" in methods, "a row without adaptation belongs in every table"
        assert any(method.cumulative for method in methods.values()), "and one that keeps all images"


def test_a_row_can_set_what_a_run_can() -> None:
    assert set(Settings.model_fields) == set(RunConfig.model_fields)
    assert set(Row.model_fields) == set(RunConfig.model_fields) | {"group", "readouts", "about"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": [1]}, "suite 'mine': unknown key 'order'; did you mean 'orders'"),
        ({"base": {"strem": {}}}, "suite 'mine': base: unknown key 'strem'; did you mean 'stream'"),
        ({"rows": {"a": {"metod": {}}}}, "row 'a': unknown key 'metod'; did you mean 'method'"),
        ({"rows": {"a": {"group": "some"}}}, "row 'a': group"),
        ({"rows": {"a": 3}}, "row 'a' is 3, expected keys"),
        ({"rows": {}}, "rows"),
        ({"orders": []}, "orders"),
        ({"orders": [-1]}, "orders"),
        ({"orders": [1, 2, 1]}, "1 stands there twice; keep it once"),
        ({"seeds": [0, 0]}, "0 stands there twice; keep it once"),
        (
            {"protocols": {"p": PROTOCOL | {"weigths": "x"}}},
            "protocol 'p': unknown key 'weigths'; did you mean 'weights'",
        ),
        (
            {"protocols": {"p": PROTOCOL | {"set": {"trainin": {}}}}},
            "set: unknown key 'trainin'; did you mean 'training'",
        ),
        ({"protocols": {"p": PROTOCOL | {"figures": {"X": {"a_lst": 3, "source": ""}}}}}, "did you mean 'a_last'"),
        ({"protocols": {"p": PROTOCOL | {"figures": {"X": {"a_last": 3}}}}}, "figures of 'X' lacks the key 'source' ("),
        ({"protocols": {"p": PROTOCOL | {"figures": {"X": {"a_last": 120, "source": ""}}}}}, "a_last = 120"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_mistyped_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError) as raised:
        load_suite(written(tmp_path, SMALL | change))
    assert said in str(raised.value)


def test_what_is_missing_is_named_without_what_is_there(tmp_path: Path) -> None:
    def told(data: dict[str, Any]) -> str:
        with pytest.raises(DualLoRAError) as raised:
            load_suite(written(tmp_path, data))
        return str(raised.value)

    misspelt = {"titel" if key == "title" else key: value for key, value in SMALL.items()}
    known, lacks = told(misspelt).split("; suite 'mine' ")
    assert known.startswith("suite 'mine': unknown key 'titel'; did you mean 'title'? Known: ")
    assert lacks == "lacks the key 'title'; add it"

    protocol = {"weight" if key == "weights" else key: value for key, value in PROTOCOL.items()}
    text = told(SMALL | {"protocols": {"p": protocol}})
    assert text.startswith("suite 'mine': protocol 'p': unknown key 'weight'; did you mean 'weights'? Known: ")
    described = "pre-trained weights, by timm tag where there is one"
    assert text.endswith(f"; suite 'mine': protocol 'p' lacks the key 'weights' ({described}); add it")

    text = told({"base": {"seed": 7}, "orders": [1]})
    assert text.startswith("suite 'mine' lacks the keys 'title', 'rows'")
    assert text.endswith("; add them") and "7" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds nothing, expected keys: title"), ("[1]", "holds a list"), ("a: [", "is no valid YAML")],
)
def test_what_is_no_suite(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError) as raised:
        load_suite(written(tmp_path, text))
    assert said in str(raised.value)


def test_an_unknown_suite() -> None:
    with pytest.raises(DualLoRAError, match="unknown suite 'cifar100-1'; did you mean 'cifar100-10'"):
        load_suite("cifar100-1")
    with pytest.raises(DualLoRAError, match=r"suite file 'a/b.yaml' does not exist; .* cifar100-10"):
        load_suite("a/b.yaml")
    with pytest.raises(DualLoRAError, match="did you mean 'cifar100-10'"):
        load_suite("cifar100_10")


def test_no_suite_is_without_a_row_without_adaptation(tmp_path: Path) -> None:
    rows = load_suite(written(tmp_path, SMALL))[1].rows
    assert {name: row.method["name"] for name, row in rows.items()} == {"ncm": "ncm", "slda": "slda"}
    for own in ({"plain": {"method": {"name": "ncm"}}}, {"ncm": {"method": {"name": "slda"}}}):
        assert list(load_suite(written(tmp_path, SMALL | {"rows": own}))[1].rows) == list(own)
    base = {"method": {"name": "lora", "options": {"rank": 4}}}  # which `ncm` does not have
    assert list(load_suite(written(tmp_path, SMALL | {"base": base, "rows": {"a": None}}))[1].rows) == ["a"]


def test_a_row_may_be_empty_and_a_protocol_is_read_to_its_figures(tmp_path: Path) -> None:
    name, suite = load_suite(written(tmp_path, SMALL | {"rows": {"plain": None}, "protocols": {"p": PROTOCOL}}))
    assert name == "mine"
    assert suite.rows["plain"].changes() == {}
    assert suite.protocols["p"].figures["InfLoRA"].a_avg == 80.82
