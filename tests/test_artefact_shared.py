"""Several who save one model folder: one after the other, and nobody undoes what another did."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from duallora import artefact
from duallora.artefact import MANIFEST, check_target, load_artefact, read_manifest, save_artefact
from duallora.errors import DualLoRAError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    save_artefact(folder, {"head": torch.zeros(3)}, {"by": "nobody"})
    return folder


def test_two_saves_at_once_come_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, order = tmp_path / "zoo", []
    written, read = threading.Event(), artefact._read_verified

    def slowly(place: Path, manifest: dict[str, Any]) -> bytes:
        if threading.current_thread().name == "first" and ".saving-" in place.name:
            written.set()
            time.sleep(0.5)  # the second comes meanwhile, and must not take this folder for a left-over
        order.append(threading.current_thread().name)
        return read(place, manifest)

    monkeypatch.setattr(artefact, "_read_verified", slowly)
    failed: list[BaseException] = []

    def save(value: float) -> None:
        try:
            save_artefact(folder, {"head": torch.full((2,), value)}, {}, overwrite=True)
        except BaseException as error:
            failed.append(error)

    first = threading.Thread(target=save, args=(1.0,), name="first")
    second = threading.Thread(target=save, args=(2.0,), name="second")
    first.start()
    assert written.wait(30)
    second.start()
    first.join(30), second.join(30)
    assert failed == []
    assert order[:2] == ["first", "second"]
    assert load_artefact(folder)[0]["head"].tolist() == [2.0, 2.0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["zoo"]


def test_only_the_model_that_was_looked_at_is_replaced(model: Path) -> None:
    seen = read_manifest(model)["checksum"]
    save_artefact(model, {"head": torch.ones(1)}, {"by": "us"}, overwrite=True, replaces=seen)
    with pytest.raises(DualLoRAError, match="saved by somebody else since it was loaded here"):
        save_artefact(model, {"head": torch.zeros(1)}, {"by": "them"}, overwrite=True, replaces=seen)
    assert read_manifest(model)["by"] == "us"
    shutil.rmtree(model)
    save_artefact(model, {"head": torch.zeros(1)}, {}, replaces=seen)  # nothing is undone where nothing is


def test_a_damaged_manifest_is_what_is_told_to_who_would_save_there(model: Path) -> None:
    (model / MANIFEST).write_bytes((model / MANIFEST).read_bytes()[:40])
    with pytest.raises(DualLoRAError, match=r"is not valid JSON.*restore it"):
        check_target(model, overwrite=True)
