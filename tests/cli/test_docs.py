"""docs/cli.md: its examples can be typed, and its documents look as the real ones do."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from cli_helpers import TINY, Type

from duallora.cli.app import app
from duallora.cli.tables import summary
from duallora.evaluation.results import RunResults

ROOT = Path(__file__).parents[2]
SECTIONS = dict(re.findall(r"^## `duallora (\w+)`\n(.*?)(?=^## )", (ROOT / "docs/cli.md").read_text(), re.M | re.S))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def examples() -> list[str]:
    """Every command line in the documents: in code blocks, comments cut off."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    blocks = [block for text in texts for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("duallora ")})


def documented(command: str) -> object:
    (block,) = re.findall(r"^```json\n(.*?)^```", SECTIONS[command], re.M | re.S)
    return json.loads(block)


def test_every_command_has_a_section() -> None:
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("line", examples())
def test_examples_can_be_typed(line: str) -> None:
    _, command, *arguments = shlex.split(line)
    COMMANDS[command].make_context(command, arguments)  # parses, raises on what it does not know, runs nothing


def test_documents_have_the_keys_that_are_documented(typed: Type, zoo: Path, pictures: Path, tmp_path: Path) -> None:
    animals = pictures / "animals"
    small = (*TINY, "--set=backbone.name=test_vit", "--set=stream.max_per_class=4", "--set=method.name=slda")
    assert typed("run", "digits", "--out", tmp_path / "run", *small).code == 0
    (tmp_path / "empty.png").write_bytes(b"")
    grid = tmp_path / "tiny.yaml"
    grid.write_text(
        "{title: Tiny, orders: [1], rows: {slda: {method: {name: slda}}}, base: {backbone: {name: test_vit, "
        "pretrained: false, image_size: 32}, stream: {max_per_class: 2, max_test_per_class: 2}}}"
    )
    real = {
        "demo": {"report": "", "runs": [summary(RunResults.load(tmp_path / "run"))]},
        "bench": typed("bench", grid, "--out", tmp_path, "--json").document,
        "learn": typed("learn", zoo, animals, "--json").document,
        "predict": typed("predict", zoo, animals, tmp_path / "empty.png", "--json").document,
        "evaluate": typed("evaluate", zoo, animals, "--json").document,
        "inspect": typed("inspect", zoo, "--json").document,
        "methods": typed("methods", "--json").document,
        "report": typed("report", tmp_path / "run", "--json").document,
    }
    for command, document in real.items():
        shown = documented(command)
        if isinstance(document, list):
            assert isinstance(shown, list)
            shown, document = shown[0], document[0]
        assert list(shown) == list(document), command
        for key, value in document.items():
            assert isinstance(value, type(shown[key])) or value is None, f"{command}: {key}"
    assert list(documented("demo")["runs"][0]) == list(real["demo"]["runs"][0])
    assert list(documented("predict")["predictions"][0]) == list(real["predict"]["predictions"][0])
    assert list(documented("predict")["skipped"][0]) == list(real["predict"]["skipped"][0])
    assert list(documented("bench")["cells"][0]) == list(real["bench"]["cells"][0])
    assert list(documented("bench")["lines"][0]) == list(real["bench"]["lines"][0])
    assert set(documented("inspect")["backbone"]) <= set(real["inspect"]["backbone"])
    assert documented("inspect")["tasks"][0].keys() == real["inspect"]["tasks"][0].keys()
