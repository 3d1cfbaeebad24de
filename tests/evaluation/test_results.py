"""results.json: complete, closed, consistent with itself, and documented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from duallora.errors import DualLoRAError
from duallora.evaluation import metrics
from duallora.evaluation.results import RunResults
from duallora.evaluation.schema import results_page

Maker = Callable[..., RunResults]


@pytest.fixture
def saved(tmp_path: Path, make_run: Maker) -> Path:
    path = tmp_path / "run" / "results.json"
    make_run().save(path)
    return path


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "checksum": None, **changes}))


def test_round_trip_through_a_file(saved: Path, make_run: Maker) -> None:
    assert RunResults.load(saved) == make_run()
    assert RunResults.load(saved.parent) == make_run(), "the run's folder will do"
    assert [entry.name for entry in saved.parent.iterdir()] == ["results.json"]
    text = json.loads(saved.read_text())
    assert text["started"] == "2025-11-22T18:00:00Z"
    assert text["accuracy_matrix"][0][1:] == [None, None]


def test_derived_figures_follow_from_the_matrices(make_run: Maker) -> None:
    run = make_run()
    assert run.counts == [40, 50, 60]
    assert run.a_last == metrics.a_last(run.accuracy_matrix, run.counts)
    assert run.a_last != run.a_last_tasks
    assert run.task_il == metrics.a_last(run.task_il_matrix, run.counts)
    assert run.forgetting == metrics.forgetting(run.accuracy_matrix)
    assert run.accuracy_curve[-1] == run.a_last
    assert run.fwt is None
    assert run.total_seconds["evaluate"] == 4.5


def test_trained_only_at_the_end(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(method="joint", last_only=True)
    run.save(tmp_path / "results.json")
    assert RunResults.load(tmp_path) == run
    assert run.a_last is not None
    assert (run.a_avg, run.forgetting, run.bwt, run.fwt) == (None, None, None, None)


def test_one_task(make_run: Maker) -> None:
    run = make_run(steps=1)
    assert run.a_last == run.a_avg
    assert run.forgetting is None


def test_versions_are_filled_in(make_run: Maker) -> None:
    versions = make_run(versions=None).versions
    assert {"python", "torch", "timm", "duallora"} <= versions.keys()


@pytest.mark.parametrize("name", ["a_last", "a_last_tasks", "a_avg", "a_avg_tasks", "forgetting", "bwt", "task_il"])
def test_altered_figures_are_refused(saved: Path, name: str) -> None:
    value = json.loads(saved.read_text())[name]
    change(saved, **{name: value + 5e-7})
    RunResults.load(saved)
    for wrong in (value + 1e-4, None):
        change(saved, **{name: wrong})
        with pytest.raises(DualLoRAError, match=f"{name} is .* follows from the accuracy matrix"):
            RunResults.load(saved)


@pytest.mark.parametrize("name", ["bytes_kept", "seconds", "parameters_trained", "class_order", "task_id_accuracy"])
def test_a_file_changed_by_hand_is_refused(saved: Path, name: str) -> None:
    data = json.loads(saved.read_text())
    saved.write_text(json.dumps(data, indent=7))  # laid out anew
    RunResults.load(saved)
    value = data[name]
    changed = value[::-1] if isinstance(value, list) else value | {"begin": 9.0}
    assert changed != value
    saved.write_text(json.dumps(data | {name: changed}))
    with pytest.raises(DualLoRAError, match="was altered: its checksum is that of other figures; run it again"):
        RunResults.load(saved)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"acuracy": 1}, "acuracy: Extra inputs"),
        ({"seconds": {"train": -1}}, "seconds"),
        ({"accuracy_matrix": [[1.2]]}, "accuracy_matrix"),
        ({"accuracy_matrix": []}, "accuracy_matrix"),
        ({"accuracy_matrix": [[0.5], [0.5, 0.5]]}, "expected 3"),
        ({"accuracy_matrix": [[0.5] * 3, [0.5] * 2, [0.5] * 3]}, "row 1 of the accuracy matrix has 2"),
        ({"calibration_error": [0.1]}, "calibration_error has 1 entries, expected 3"),
        ({"bytes_kept": [1, 2, 3, 4]}, "bytes_kept has 4 entries"),
        ({"class_order": ["0 cat"]}, "class_order lacks the class"),
        ({"scenario": "online"}, "scenario"),
        ({"started": "yesterday"}, "started"),
        ({"tasks": []}, "tasks"),
    ],
)
def test_broken_files_say_what_is_wrong(saved: Path, changes: dict[str, Any], expected: str) -> None:
    change(saved, **changes)
    with pytest.raises(DualLoRAError, match=expected) as caught:
        RunResults.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_results(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(DualLoRAError, match="there is no results file"):
        RunResults.load(tmp_path / "nothing")
    saved.write_text("{")
    with pytest.raises(DualLoRAError, match="not valid JSON"):
        RunResults.load(saved)
    saved.write_text('{"a": 1}')
    with pytest.raises(DualLoRAError, match="no results of duallora"):
        RunResults.load(saved)


def test_newer_format_says_what_to_install(saved: Path) -> None:
    change(saved, format_version=7, versions={"duallora": "3.0.0"}, new_key=1)
    with pytest.raises(DualLoRAError, match=r"pip install 'duallora>=3\.0\.0'"):
        RunResults.load(saved)


def test_building_wrongly_is_an_error_of_ours(make_run: Maker) -> None:
    with pytest.raises(DualLoRAError, match="capacity has 1 entries"):
        make_run(capacity=[[0.5]])
    with pytest.raises(DualLoRAError, match="passes_per_image"):
        make_run(passes_per_image=float("nan"))


def test_results_do_not_change(make_run: Maker) -> None:
    with pytest.raises(ValidationError):
        make_run().a_last = 1.0


def test_config_that_json_cannot_hold(tmp_path: Path, make_run: Maker) -> None:
    with pytest.raises(DualLoRAError, match=r"config\['x'\] is nan"):
        make_run(config={"x": float("nan")}).save(tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


def test_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "results.md"
    assert page.read_text(encoding="utf-8") == results_page(), (
        "run: python -m duallora.evaluation.results > docs/results.md"
    )


def test_page_describes_every_field() -> None:
    page = results_page()
    for name, field in RunResults.model_fields.items():
        assert f"| `{name}` |" in page
        assert field.description
