"""YAML files: a user's or a shipped one, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from duallora.errors import DualLoRAError
from duallora.yaml_files import read_yaml, shipped

PACKAGE = Path(__file__).parents[1] / "src" / "duallora"


def read(path: str | Path) -> dict[str, object]:
    return read_yaml(path, "suite", "bench/suites", example="title")


@pytest.mark.parametrize("folder", ["configs", "bench/suites"])
def test_shipped_ones_are_named_in_order_and_read_by_name(folder: str) -> None:
    names = list(shipped(folder))
    assert names == sorted(path.stem for path in (PACKAGE / folder).glob("*.yaml"))
    assert read_yaml(names[0], "file", folder, example="x") == read_yaml(
        PACKAGE / folder / f"{names[0]}.yaml", "file", folder, example="x"
    )


def test_a_local_file_of_a_shipped_name_takes_precedence_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # such as the data
    assert read("digits")["title"] != "mine"
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").write_text("title: mine")
    assert read("digits") == {"title": "mine"}


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist; give a YAML file, or one of those that come with duallora: .*digits"),
        (lambda path: path.mkdir(), r"cannot be read \(Is a directory\)"),
        (lambda path: path.write_bytes(b"\x89PNG\xff\xfe"), "is no text in UTF-8"),
        (lambda path: path.write_text("a: ["), "is no valid YAML: .*line 1"),
        (lambda path: path.write_text("a: 1\nb: 2\na: 3"), "is no valid YAML: the key 'a' stands there twice.*line 3"),
        (lambda path: path.write_text("a: 2024-02-30"), "is no valid YAML: a value cannot be read.*put it in quotes"),
        (lambda path: path.write_text("- 1\n- 2"), "holds a list, expected keys such as 'title:'"),
    ],
    ids=["missing", "a directory", "not UTF-8", "no YAML", "a key twice", "no date", "a list"],
)
def test_what_is_no_such_file_is_named(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    make(path)
    with pytest.raises(DualLoRAError, match=rf"^suite file '{path}' {said}"):
        read(path)


def test_the_nearest_shipped_name_is_told() -> None:
    with pytest.raises(DualLoRAError, match=r"^unknown suite 'digit'; did you mean 'digits'"):
        read("digit")
