"""Imports run downwards only: docs/architecture.md, held to the code by reading every file's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "duallora"

# Part -> layer. A part may import parts of a lower layer, and itself. `__init__` (lazy, public names) is not a part.
# A dotted name takes one file out of the folder that it lies in and gives it a layer of its own.
LAYERS = {
    "errors": 0,
    "compat": 0,
    "schema": 0,
    "versions": 0,
    "answers": 1,
    "files": 1,
    "settings": 1,
    "task_names": 1,
    "data": 2,
    "lowrank": 2,
    "yaml_files": 2,
    "backbone": 3,
    "stream": 3,
    "methods": 4,
    "migrations": 5,
    "training": 5,
    "artefact": 6,
    "config": 6,
    "evaluation": 7,
    "settings_page": 7,
    "learner": 8,
    "report": 8,
    "evaluation.runner": 9,
    "bench": 10,
    "cli": 11,
    "__main__": 12,
}

# Part -> what it may not import from outside the package, anywhere in its files.
TENSORS_ONLY = (
    "accelerate",
    "matplotlib",
    "pathlib",
    "safetensors",
    "timm",
    "torchvision",
    "torch.optim",
    "torch.utils.data",
)
FORBIDDEN = {
    "lowrank": (*TENSORS_ONLY, "pydantic"),
    "methods": TENSORS_ONLY,
    "data": ("accelerate", "matplotlib", "timm"),
}

# Imported inside functions only, so that start-up is quick and the cure of duallora.compat comes first.
LAZY = ("torchvision", "timm", "matplotlib", "accelerate")

FILES = sorted(SOURCE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part that a dotted name belongs to: duallora.data.folder -> data; duallora -> __init__."""
    pieces = module.split(".")[1:]
    if ".".join(pieces[:2]) in LAYERS:
        return ".".join(pieces[:2])
    return pieces[0] if pieces else "__init__"


def module_of(path: Path) -> str:
    pieces = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(pieces[:-1] if pieces[-1] == "__init__" else pieces)


def imported(nodes: Iterator[ast.AST], path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of each import; `from a import b` counts as a.b."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs on import: not inside a function, not under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_module_level(child)


def starts_with(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_downwards(path: Path) -> None:
    here = part_of(module_of(path))
    if here == "__init__":
        return
    assert here in LAYERS, f"{here} is a new part: give it a layer here and in docs/architecture.md"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, name in imported(ast.walk(tree), path):
        if name == "duallora.__version__" or not starts_with(name, ("duallora",)):
            continue
        there = part_of(name)
        assert there in LAYERS, f"{path.name}:{line} imports {name}: import it from the module that defines it"
        assert there == here or LAYERS[there] < LAYERS[here], f"{path.name}:{line}: {here} may not import {there}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_parts_do_not_see_what_is_not_theirs(path: Path) -> None:
    forbidden = FORBIDDEN.get(part_of(module_of(path)), ())
    found = [
        (line, name)
        for line, name in imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path)
        if starts_with(name, forbidden)
    ]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    lazy = (*LAZY, "torch") if part_of(module_of(path)) in ("cli", "config", "__init__", "__main__", "errors") else LAZY
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [(line, name) for line, name in imported(at_module_level(tree), path) if starts_with(name, lazy)]
    assert not found


def test_every_layer_is_a_part() -> None:
    places = {name: SOURCE.joinpath(*name.split(".")) for name in LAYERS}
    assert not [name for name, place in places.items() if not place.is_dir() and not place.with_suffix(".py").is_file()]


def test_the_document_names_every_part() -> None:
    text = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not [name for name in LAYERS if name != "__main__" and f"`{name}" not in text]
