"""Where a model may be saved: what is in the way is told before anything is learned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from duallora import artefact
from duallora.artefact import load_artefact, save_artefact
from duallora.errors import DualLoRAError


def small(generation: int = 0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((4, 3), float(generation))}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_artefact(tmp_path / "zoo", small(1), {"generation": 1})
    return tmp_path / "zoo"


def test_empty_folder_and_missing_parents_are_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_artefact(tmp_path / "empty", small(), {})
    save_artefact(tmp_path / "a" / "b" / "c", small(), {})
    load_artefact(tmp_path / "empty")
    load_artefact(tmp_path / "a" / "b" / "c")


def test_a_link_to_the_folder_stays_a_link(tmp_path: Path, model: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(model, target_is_directory=True)
    save_artefact(link, small(3), {"generation": 3}, overwrite=True)
    assert link.is_symlink()
    assert load_artefact(model)[1]["generation"] == 3


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(DualLoRAError, match=r"cannot save to .* is a file"):
        save_artefact(tmp_path / "f" / "zoo", small(), {})


def test_a_name_that_its_siblings_would_outgrow_is_told_before_anything_is_learned(tmp_path: Path) -> None:
    longest = "ü" * (artefact.LONGEST // 2)
    save_artefact(tmp_path / longest, small(), {})
    with pytest.raises(DualLoRAError, match=f"longer than {artefact.LONGEST} bytes"):
        artefact.check_target(tmp_path / f"{longest}ü")
    assert [path.name for path in tmp_path.iterdir()] == [longest]


def test_a_mounted_disk_is_told_before_anything_is_learned(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: self == model.resolve())
    with pytest.raises(DualLoRAError, match="a disk is mounted there; give a folder in it"):
        artefact.check_target(model, overwrite=True)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DualLoRAError, match=r"cannot save to .* may not be written to"):
            save_artefact(tmp_path / "zoo", small(), {})
    finally:
        tmp_path.chmod(0o700)
