"""A run's folder: one run at a time, and half a run goes on with the images that it began with."""

from __future__ import annotations

from pathlib import Path

import pytest

from duallora.config import RunConfig
from duallora.data.imageset import ImageSet
from duallora.errors import DualLoRAError
from duallora.evaluation.run_folder import alone, check_folder, check_images
from duallora.evaluation.runner import run
from duallora.files import write_json_atomic
from duallora.learner import Learner

IMAGES = [{"name": "task 1", "train": "aa", "test": "bb"}, {"name": "task 2", "train": "cc", "test": "dd"}]


def config(**stream: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "stream": {"source": "digits", "increment": 5, "max_per_class": 4, "max_test_per_class": 2} | stream,
            "method": {"name": "ncm"},
            "backbone": {"name": "test_vit", "pretrained": False, "image_size": 32},
        }
    )


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was interrupted in its second task."""
    learn = Learner.learn

    def once(self: Learner, source: ImageSet, **options: object) -> object:
        if self.tasks:
            raise KeyboardInterrupt
        return learn(self, source, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Learner, "learn", once)
        run(config(), tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with alone(out), pytest.raises(DualLoRAError, match=r"another run works in .* now; wait for it"):
        run(config(), out, progress=False)
    assert list(tmp_path.iterdir()) == []  # nothing came of either
    run(config(), out, progress=False)
    with alone(out):
        pass
    assert (out / "results.json").exists()


def test_half_a_run_does_not_go_on_with_other_images(tmp_path: Path, half: Path) -> None:
    out = half
    held = (out / "images.json").read_text()
    (out / "images.json").write_text(held.replace('"train": "', '"train": "0', 1))
    with pytest.raises(DualLoRAError, match=r"its images have changed since \(task '.*'\); start over with --redo"):
        run(config(), out, progress=False)
    (out / "images.json").write_text(held)
    assert run(config(), out, progress=False).a_last == run(config(), tmp_path / "whole", progress=False).a_last


def test_a_damaged_checkpoint_is_done_over_when_asked(half: Path) -> None:
    out = half
    tensors = out / "checkpoints" / "task-001" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(DualLoRAError, match=r"cannot go on from 'task-001' .*truncated.*; start over with --redo"):
        run(config(), out, progress=False)
    assert run(config(), out, redo=True, progress=False).a_last is not None


def test_images_are_compared_task_by_task(tmp_path: Path) -> None:
    check_images(tmp_path, IMAGES)  # nothing was begun
    write_json_atomic(tmp_path / "images.json", IMAGES)
    check_images(tmp_path, IMAGES[::-1])  # begun, but no task was finished
    (tmp_path / "steps").mkdir()
    check_images(tmp_path, IMAGES)
    with pytest.raises(DualLoRAError, match=r"task 'task 2'"):
        check_images(tmp_path, [IMAGES[0], IMAGES[1] | {"test": "ee"}])
    with pytest.raises(DualLoRAError, match="have changed since; start over"):
        check_images(tmp_path, IMAGES[:1])


def test_what_broke_off_before_it_began_is_no_strangers(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "images.json", IMAGES)
    check_folder(config(), tmp_path, resume=True, redo=False)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DualLoRAError, match="is no run of duallora"):
        check_folder(config(), tmp_path, resume=True, redo=False)
