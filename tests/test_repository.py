"""The repository itself: what must be in it, and what must not."""

from __future__ import annotations

import functools
import re
import statistics
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "duallora"
REQUIRED = (
    ".ci/run",
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "docs/index.md",
    "pyproject.toml",
    "src/duallora/__init__.py",
    "src/duallora/py.typed",
)
BINARY = {".safetensors", ".npz", ".npy", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".woff2", ".gz", ".zip"}
SKIPPED = {".git", ".venv", ".hypothesis", "runs", "data", "build", "dist", "site"}


def project_files() -> list[Path]:
    """Every file that is, or is about to be, under version control; all but build products where git is absent."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path
            for path in ROOT.rglob("*")
            if path.relative_to(ROOT).parts[0] not in SKIPPED
            and not any("cache" in x for x in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


@functools.cache
def text_files() -> dict[Path, str]:
    paths = [path for path in project_files() if path.suffix not in BINARY]
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}


def project() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


@pytest.mark.parametrize("name", REQUIRED)
def test_required_file(name: str) -> None:
    assert (ROOT / name).is_file()


def test_ci_can_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert (ROOT / ".ci" / "run").read_text().startswith("#!/usr/bin/env bash\n")


def test_files_are_short() -> None:
    lines = {path: text.count("\n") for path, text in text_files().items() if path.parts[0] == "src"}
    too_long = {str(path): n for path, n in lines.items() if n > 500}
    assert not too_long
    assert statistics.median(n for path, n in lines.items() if path.suffix == ".py") < 150


def test_no_paths_of_a_machine() -> None:
    tops = "|".join(["home", "root", "Users", "work", "cache", "tmp", "opt", "mnt"])
    absolute = re.compile(rf"(?<![\w./:~{{}}<>)-])/(?:{tops})/[\w.-]+|\b[A-Z]:\\\\?Users")
    found = {
        f"{path}:{number}": line.strip()
        for path, text in text_files().items()
        if path != Path("tests/test_repository.py")
        for number, line in enumerate(text.splitlines(), 1)
        if absolute.search(line)
    }
    assert not found


def test_text_is_clean() -> None:
    for path, text in text_files().items():
        assert "\r" not in text, f"{path}: carriage returns"
        assert not text or text.endswith("\n"), f"{path}: no newline at the end"
        assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), f"{path}: an unresolved merge"


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    head = [line.strip() for line in text.splitlines()[:3]]
    assert head == ["Apache License", "Version 2.0, January 2004", "http://www.apache.org/licenses/"]
    assert "END OF TERMS AND CONDITIONS" in text and len(text.splitlines()) > 195
    assert project()["license"] == "Apache-2.0"


def test_readme_begins_with_what_to_type() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:40]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)
    assert any("Learner.create(" in line for line in first_screen)


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path}: {target}"
        for path, text in text_files().items()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if "://" not in target and not (ROOT / path.parent / target).exists()
    ]
    assert not broken


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project()["version"]
    assert citation["license"] == "Apache-2.0"
    assert any("2411.00623" in reference["url"] for reference in citation["references"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_config_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_configs_in_the_package_are_those_of_the_repository() -> None:
    inside, outside = (
        {path.name: path.read_text() for path in folder.glob("*.yaml")}
        for folder in (SOURCE / "configs", ROOT / "configs")
    )
    assert inside == outside and {"digits.yaml", "cifar100-10.yaml"} <= set(outside)


def test_every_dependency_of_the_set_up_is_pinned() -> None:
    rows = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(row.split("==") for row in rows if row and not row.startswith("#"))
    described = project()
    extras = dict(described["optional-dependencies"])  # type: ignore[call-overload]
    wanted = [*described["dependencies"], *extras["test"]]  # type: ignore[misc]
    names = {re.split(r"[<>=!~ \[]", requirement)[0].replace("_", "-").lower() for requirement in wanted}
    assert names <= set(pins)
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]
