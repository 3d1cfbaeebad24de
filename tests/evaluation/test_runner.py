"""Runs: files, resume, refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duallora.backbone import Backbone
from duallora.config import RunConfig, StreamConfig
from duallora.data import ImageSet, Split
from duallora.errors import DualLoRAError
from duallora.evaluation import runner
from duallora.evaluation.results import RunResults


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, backbones: Callable[..., Backbone]) -> None:
    """Every run of this file on a tiny random backbone."""
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones())
    now = {"weights_sha256": backbones().sha256}
    monkeypatch.setattr("duallora.evaluation.results.bundled.read_card", lambda: now)


def config(method: str = "duallora", **options: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "stream": {"source": "digits", "increment": 4, "max_per_class": 12, "max_test_per_class": 5},
            "method": {"name": method, "options": options},
            "training": {"epochs": 1, "batch_size": 16, "augment": "crop"},
        }
    )


@pytest.mark.parametrize("method", ["duallora", "joint", "ncm"])
def test_a_run_leaves_its_files(method: str, tmp_path: Path) -> None:
    results = runner.run(config(method), tmp_path / "run", progress=False)
    assert RunResults.load(tmp_path / "run").model_dump() == results.model_dump()
    assert [len(t.classes) for t in results.tasks] == [4, 4, 2]
    assert [len([a for a in row if a is not None]) for row in results.accuracy_matrix] == [1, 2, 3]
    assert results.images_kept == (120 if method == "joint" else 0)
    assert set(results.seconds) == {"begin", "train", "statistics", "evaluate"}
    assert results.config["method"]["options"] or method == "ncm"
    assert not (tmp_path / "run" / "checkpoints").exists()
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert RunConfig.model_validate(held) == config(method)


def test_what_a_method_says_of_a_task_is_kept_and_outlives_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config("duallora", first_rate=3.0)
    half_a_run(tmp_path / "run", monkeypatch, chosen)
    results = runner.run(chosen, tmp_path / "run", progress=False)
    first, *later = results.tasks
    assert "of the way, by classes left out in rehearsal" in first.notes[0]
    assert not any("rehearsal" in note for task in later for note in task.notes)
    assert RunResults.load(tmp_path / "run" / "readouts" / "quadratic").tasks == results.tasks


def test_other_readouts_of_the_same_training_are_written_beside(tmp_path: Path) -> None:
    runner.run(config("lora"), tmp_path / "run", progress=False)
    other = RunResults.load(tmp_path / "run" / "readouts" / "gaussian")
    assert other.method == "lora+gaussian"


def figures(results: RunResults) -> list[object]:
    return [
        results.accuracy_matrix,
        results.task_il_matrix,
        results.calibration_error,
        results.bytes_kept,
        results.capacity,
    ]


def half_a_run(out: Path, monkeypatch: pytest.MonkeyPatch, chosen: RunConfig) -> None:
    real, calls = runner.score_step, []

    def interrupted(*args: object, **kw: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kw)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "score_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.run(chosen, out, progress=False)


@pytest.mark.parametrize("method", ["duallora", "lora"])
def test_an_interrupted_run_goes_on_to_the_same_results(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.run(config(method), tmp_path / "whole", progress=False)
    half_a_run(tmp_path / "cut", monkeypatch, config(method))
    assert not (tmp_path / "cut" / "results.json").exists()
    again = runner.run(config(method), tmp_path / "cut", progress=False)
    assert figures(again) == figures(whole)


def test_a_run_that_broke_off_for_memory_goes_on_with_fewer_images_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, taken = config("lora"), []
    half_a_run(tmp_path / "run", monkeypatch, chosen)
    real = runner.score_step

    def watched(method: object, seen: list[Any], *args: object) -> object:
        taken.append([len(y) for batches in seen for _, y in batches])
        return real(method, seen, *args)

    monkeypatch.setattr(runner, "score_step", watched)
    fewer = chosen.model_copy(update={"training": chosen.training.model_copy(update={"evaluation_batch_size": 4})})
    runner.run(fewer, tmp_path / "run", progress=False)
    assert taken and max(max(sizes) for sizes in taken) == 4


def test_half_a_run_with_another_default_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_a_run(tmp_path / "run", monkeypatch, config("duallora", class_blocks="later"))
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    held["method"]["options"] = {}  # as an earlier version wrote it, for which that was the default
    (tmp_path / "run" / "config.json").write_text(json.dumps(held))
    with pytest.raises(DualLoRAError, match=r"class_blocks was 'later' by default; it is 'last' now.*--redo"):
        runner.run(config("duallora"), tmp_path / "run", progress=False)
    assert runner.run(config("duallora"), tmp_path / "run", redo=True, progress=False).a_last is not None


def test_nothing_to_test_on_is_told_before_training(tmp_path: Path, write_image: Callable[[Path], None]) -> None:
    for name in "abcd":
        write_image(tmp_path / "data" / name / "only.png")
    stream = {"source": str(tmp_path / "data"), "increment": 2}
    chosen = config("ncm").model_copy(update={"stream": StreamConfig(**stream)})
    with pytest.raises(DualLoRAError, match="there are no images to test on"):
        runner.run(chosen, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_as_it_began_begins_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.0a1b2c3d.tmp").write_text("{")
    assert runner.run(config("ncm"), tmp_path / "run", progress=False).a_last is not None


def test_a_finished_run_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runner.run(config("ncm"), tmp_path / "run", progress=False)
    monkeypatch.setattr(runner, "build_stream", lambda c: pytest.fail("done again"))
    left = tmp_path / "run" / "checkpoints" / "task-001"
    left.mkdir(parents=True)  # as when it is killed between its results and the clearing away
    assert runner.run(config("ncm"), tmp_path / "run", progress=False) == first
    assert not left.exists()


def test_a_run_that_took_more_images_at_once_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = config("ncm")
    other = other.model_copy(update={"training": other.training.model_copy(update={"evaluation_batch_size": 256})})
    first = runner.run(other, tmp_path / "run", progress=False)
    monkeypatch.setattr(runner, "build_stream", lambda c: pytest.fail("done again"))
    assert runner.run(config("ncm"), tmp_path / "run", progress=False) == first


def test_a_run_on_former_weights_of_the_bundled_backbone_is_not_taken_for_one_of_now(tmp_path: Path) -> None:
    done = runner.run(config("ncm"), tmp_path / "run", progress=False)
    former = done.backbone.model_copy(update={"name": "bundled", "sha256": "89" * 32})
    done.model_copy(update={"backbone": former}).save(tmp_path / "run" / "results.json")
    with pytest.raises(DualLoRAError, match=r"former weights of the bundled backbone.*--redo"):
        runner.run(config("ncm"), tmp_path / "run", progress=False)
    again = runner.run(config("ncm"), tmp_path / "run", redo=True, progress=False)
    assert again.accuracy_matrix == done.accuracy_matrix


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    runner.run(config("ncm"), tmp_path / "run", progress=False)
    with pytest.raises(DualLoRAError, match=r"another configuration.*--redo"):
        runner.run(config("slda"), tmp_path / "run", progress=False)
    assert runner.run(config("slda"), tmp_path / "run", redo=True, progress=False).method == "slda"


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DualLoRAError, match="is no run of duallora"):
        runner.run(config("ncm"), tmp_path / "mine", progress=False)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(DualLoRAError, match="is a file"):
        runner.run(config("ncm"), tmp_path / "mine", progress=False)


def test_joint_at_the_end_only(tmp_path: Path) -> None:
    chosen = config("joint").model_copy(update={"cumulative_steps": "last"})
    results = runner.run(chosen, tmp_path / "run", progress=False)
    assert results.a_last is not None
    assert results.forgetting is None
    assert results.accuracy_matrix[0] == [None] * 3


def test_validation_leaves_the_test_images_alone(tmp_path: Path) -> None:
    stream = config().stream.model_copy(update={"validation": 0.25, "evaluate_on": "validation"})
    results = runner.run(config("ncm").model_copy(update={"stream": stream}), tmp_path / "run", progress=False)
    assert [t.test_images for t in results.tasks] == [12, 12, 6]  # a quarter of 12 training images of each class
    with pytest.raises(DualLoRAError, match=r"stream.validation=0.1"):
        stream = config().stream.model_copy(update={"evaluate_on": "validation"})
        runner.run(config("ncm").model_copy(update={"stream": stream}), tmp_path / "other", progress=False)


def test_one_test_set_for_all_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Callable[..., ImageSet]
) -> None:
    test = images(2, 5, seed=9)
    domains = {name: Split(images(2, 6, seed=s), test) for s, name in enumerate("abc")}
    monkeypatch.setattr(runner, "open_domains", lambda source, **kw: domains)
    stream = {"source": "core50", "scenario": "domain-incremental", "order_seed": 0}
    found = runner.run(config("slda").model_copy(update={"stream": StreamConfig(**stream)}), tmp_path, progress=False)
    assert sorted(task.name for task in found.tasks) == ["a", "b", "c"]
    assert [task.test_images for task in found.tasks] == [10, 0, 0]
    assert [row[1:] for row in found.accuracy_matrix] == [[None, None]] * 3
    assert found.accuracy_curve == [row[0] for row in found.accuracy_matrix] and found.a_last is not None
    # The images are of no task, so none can be given or found.
    assert [a for row in found.task_il_matrix for a in row] == [None] * 9
    assert found.task_id_accuracy == [None] * 3 and found.task_il is None


def test_validation_images_of_domains_with_one_test_set_have_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Callable[..., ImageSet]
) -> None:
    held = {name: Split(images(2, 6, seed=s), images(2, 5, seed=9)) for s, name in enumerate("abc")}
    monkeypatch.setattr(runner, "open_domains", lambda source, **kw: held)
    stream = {"source": "core50", "scenario": "domain-incremental", "validation": 0.4, "evaluate_on": "validation"}
    found = runner.run(config("slda").model_copy(update={"stream": StreamConfig(**stream)}), tmp_path, progress=False)
    assert found.task_il is not None and None not in found.task_id_accuracy[1:]  # of one task there is none to tell


def domains(images: Callable[..., ImageSet]) -> dict[str, Split]:
    return {name: Split(images(2, 6, seed=s), images(2, 4, seed=10 + s)) for s, name in enumerate("abc")}


@pytest.mark.parametrize("method", ["slda", "duallora"])
def test_domains_are_tried_before_they_are_learned(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Callable[..., ImageSet]
) -> None:
    monkeypatch.setattr(runner, "open_domains", lambda source, **kw: domains(images))
    stream = StreamConfig(source="pacs", scenario="domain-incremental")
    found = runner.run(config(method).model_copy(update={"stream": stream}), tmp_path, progress=False)
    matrix = found.accuracy_matrix
    assert [[a is not None for a in row] for row in matrix] == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert found.fwt == pytest.approx((matrix[0][1] + matrix[1][2]) / 2)
    assert found.accuracy_curve[0] == matrix[0][0]  # what is not learned yet counts for nothing else
    assert [a for row in found.task_il_matrix for a in row].count(None) == 3
    assert found.task_id_accuracy[0] is None and found.task_id_accuracy[2] is not None


def test_joint_tells_domains_apart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Callable[..., ImageSet]
) -> None:
    monkeypatch.setattr(runner, "open_domains", lambda source, **kw: domains(images))
    stream = StreamConfig(source="pacs", scenario="domain-incremental")
    found = runner.run(config("joint").model_copy(update={"stream": stream}), tmp_path, progress=False)
    first, *later = found.task_id_accuracy
    assert first is None and None not in later  # a row per class and domain, as for every method
    assert found.fwt is not None


def test_files_that_were_not_used_are_named(tmp_path: Path, write_image: Callable[[Path], None]) -> None:
    for name in ("cat", "dog"):
        for i in range(6):
            write_image(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"")
    chosen = config("ncm").model_copy(
        update={"stream": StreamConfig(source=f"folder:{tmp_path / 'pets'}", increment=1)}
    )
    found = runner.run(chosen, tmp_path / "run", progress=False)
    assert [(Path(s.path).name, "empty" in s.reason) for s in found.skipped] == [("broken.png", True)]
    assert RunResults.load(tmp_path / "run").skipped == found.skipped
    assert [t.test_images for t in found.tasks] == [1, 1]  # a fifth of six
    half = chosen.model_copy(update={"stream": chosen.stream.model_copy(update={"held_out": 0.5})})
    assert [len(t.test) for t in runner.build_stream(half.stream)] == [3, 3]


def test_streams_that_sources_group(tmp_path: Path, write_image: Callable[[Path], None]) -> None:
    for name in ("Greek/character01", "Greek/character02", "Latin/character01"):
        for i in range(3):
            write_image(tmp_path / "omniglot" / name / f"{i}.png")
    stream = runner.build_stream(StreamConfig(source="omniglot", increment="source", root=str(tmp_path), order_seed=1))
    assert sorted((t.name, len(t.classes)) for t in stream) == [("Greek", 2), ("Latin", 1)]
    (first,) = runner.build_stream(
        StreamConfig(source="omniglot", increment="source", root=str(tmp_path), order_seed=1, max_tasks=1)
    )
    assert first.name == stream[0].name
