"""The records of the tasks of a run: read as written, and not where they were altered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duallora.errors import DualLoRAError
from duallora.evaluation.scoring import StepScores
from duallora.evaluation.steps import StepRecord, load_steps
from duallora.files import write_json_atomic

RECORD = StepRecord.empty().model_copy(
    update={"scores": {"default": StepScores([0.1 + 0.2], [None], None, 1 / 3)}, "seconds": {"train": 1.5}}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three records, as a run writes them."""
    for number in range(3):
        write_json_atomic(tmp_path / f"{number:03d}.json", RECORD.model_dump(mode="json"))
    return tmp_path


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_records_are_read_as_written(folder: Path) -> None:
    assert load_steps(folder) == [RECORD] * 3
    path = folder / "001.json"
    assert len(json.loads(path.read_text())["checksum"]) == 64
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))  # laid out anew
    assert load_steps(folder) == [RECORD] * 3
    assert json.loads(RECORD.model_dump_json()) == RECORD.model_dump(mode="json")
    assert "checksum" not in RECORD.model_dump()


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": {"train": 0.1}},
        {"scores": {"default": {"accuracy": [0.99], "task_il": [None], "task_id": None, "calibration": 0.3}}},
        {"scores": "none"},
        {"bytes_kept": 7},
        {"checksum": "0" * 64},
        {"surplus": 1},
    ],
)
def test_an_altered_record_is_named(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder / "001.json", **changes)
    with pytest.raises(
        DualLoRAError, match=r"001\.json' was altered: its checksum is that of other.*; start over with"
    ):
        load_steps(folder)


def test_records_of_an_earlier_version_have_no_checksum_and_are_read(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "checksum"}))
    assert load_steps(folder) == [RECORD] * 3


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"scores": {}}'])
def test_records_end_before_a_gap_or_a_broken_file(folder: Path, text: str) -> None:
    (folder / "001.json").write_text(text)
    assert load_steps(folder) == [RECORD]
    (folder / "001.json").unlink()
    assert load_steps(folder) == [RECORD]
    assert load_steps(folder / "nowhere") == []
