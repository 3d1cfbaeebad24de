"""Folders of images, a model that learned some of them, and a way to type commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from duallora.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported one by one, so a shared helper needs a path
from cli_helpers import COLOURS, TINY, Done, Type, picture


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Run a command in this process, as the entry point would; no trace back may ever show."""
    monkeypatch.delenv("DUALLORA_DEBUG", raising=False)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        assert "Traceback" not in written.out + written.err or "--debug" in arguments
        return Done(int(ended.value.code or 0), written.out, written.err)

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`animals/` (cat, dog) and `vehicles/` (car, bus), six images each."""
    root = tmp_path_factory.mktemp("pictures")
    for task, classes in {"animals": ("cat", "dog"), "vehicles": ("car", "bus")}.items():
        for name in classes:
            for i in range(6):
                picture(root / task / name / f"{i}.png", COLOURS[name], i)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A model folder that learned the animals; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "zoo"
    with pytest.raises(SystemExit) as ended:
        main(["learn", str(folder), str(pictures / "animals"), "--backbone=test_vit", *TINY])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def zoo(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to play with."""
    return Path(shutil.copytree(trained, tmp_path / "zoo"))
