"""The loop: determinism, finite losses, what is timed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from duallora.backbone import Backbone
from duallora.data import ImageSet, imageset
from duallora.data.images import decode
from duallora.errors import DualLoRAError
from duallora.methods import TaskInfo, get_method
from duallora.settings import validated
from duallora.training.device import Session
from duallora.training.loop import TaskTiming, _rate, learn_task
from duallora.training.settings import TrainingSettings

CPU = torch.device("cpu")


def taught(
    backbone: Backbone, images: ImageSet, name: str = "lora", seed: int = 3, **settings: object
) -> tuple[dict[str, torch.Tensor], TaskTiming]:
    kind = get_method(name)
    torch.manual_seed(0)
    method = kind(backbone, kind.Config())
    chosen = TrainingSettings(**({"epochs": 2, "batch_size": 8, "precision": "float32"} | settings))
    info = TaskInfo(0, tuple(range(len(images.classes))), len(images), (tuple(range(len(images.classes))),))
    timing = learn_task(
        method,
        info,
        images,
        torch.arange(len(images.classes)),
        backbone.preprocessing,
        chosen,
        Session.of(chosen.precision, CPU),
        seed=seed,
        progress=False,
    )
    return method.state(), timing


@pytest.mark.parametrize("name", ["lora", "duallora", "probe"])
def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator(
    name: str, backbones: Callable[..., Backbone], images: Callable[..., ImageSet]
) -> None:
    first, _ = taught(backbones(), images(3, 8), name)
    torch.rand(17)
    second, _ = taught(backbones(), images(3, 8), name)
    other, _ = taught(backbones(), images(3, 8), name, seed=4)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_blending_is_as_repeatable_and_is_training_too(
    backbones: Callable[..., Backbone], images: Callable[..., ImageSet]
) -> None:
    first, timing = taught(backbones(), images(3, 8), mix="both")
    second, _ = taught(backbones(), images(3, 8), mix="both")
    plain, _ = taught(backbones(), images(3, 8))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], plain[k]) for k in first)
    assert timing.loss and timing.loss > 0


def test_each_stage_trains_for_all_epochs_and_a_parameter_counts_once(
    backbones: Callable[..., Backbone], images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = get_method("lora")
    steps: list[int] = []
    stage = -1

    def begin(self: object, now: int, batches: object) -> None:
        nonlocal stage
        stage = now

    monkeypatch.setattr(kind, "after_step", lambda self: steps.append(stage))
    _, once = taught(backbones(), images(3, 8))
    monkeypatch.setattr(kind, "stages", 2)
    monkeypatch.setattr(kind, "begin_stage", begin)
    _, twice = taught(backbones(), images(3, 8))
    assert steps == [-1] * 6 + [0] * 6 + [1] * 6  # 2 epochs of 24 images, 8 at a time
    assert twice.parameters == once.parameters > 0


def test_training_leaves_the_global_generator_alone(backbone: Backbone, images: Callable[..., ImageSet]) -> None:
    torch.manual_seed(0)
    method_rng = torch.get_rng_state()
    taught(backbone, images(2, 6))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), method_rng)


def test_the_loss_falls_and_is_told(backbones: Callable[..., Backbone], images: Callable[..., ImageSet]) -> None:
    _, short = taught(backbones(), images(3, 16), epochs=1)
    _, long = taught(backbones(), images(3, 16), epochs=16, learning_rate=2e-2, augment="none")
    assert long.loss < short.loss / 2
    assert set(long.seconds) == {"begin", "train", "statistics"}
    assert long.parameters > 0


@pytest.mark.parametrize("method", ["duallora", "lora", "ranpac"])
def test_a_last_step_that_runs_away_is_noticed(
    backbones: Callable[..., Backbone], images: Callable[..., ImageSet], method: str
) -> None:
    with pytest.raises(DualLoRAError, match=r"(not finite|no basis).*training.learning_rate="):
        taught(backbones(), images(2, 4), method, epochs=1, batch_size=8, learning_rate=1e30, warmup=0.0)


def test_settings_are_finite_numbers() -> None:
    for key, value in (("learning_rate", float("inf")), ("weight_decay", float("nan")), ("epochs", True)):
        with pytest.raises(DualLoRAError, match=key):
            validated(TrainingSettings, {key: value}, "training")


def test_a_loss_that_is_not_finite_stops_with_advice(backbone: Backbone, images: Callable[..., ImageSet]) -> None:
    with pytest.raises(DualLoRAError, match=r"not finite \(task 1, epoch 1, step \d+\).*training.learning_rate=1e\+29"):
        taught(backbone, images(2, 40), learning_rate=1e30, batch_size=4, clip=1e30, optimizer="sgd")


def test_a_statistics_method_trains_nothing(backbone: Backbone, images: Callable[..., ImageSet]) -> None:
    _, timing = taught(backbone, images(2, 6), "slda")
    assert timing.loss is None
    assert timing.parameters == 0


def test_files_are_decoded_for_the_task_alone(
    backbone: Backbone, images: Callable[..., ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, decoded, paths = images(2, 4), [], []
    for i in range(len(held)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(held.image(i).permute(1, 2, 0).numpy()).save(paths[-1])
    files = ImageSet(held.classes, held.labels, tuple(paths))
    monkeypatch.setattr(imageset, "decode", lambda path: decoded.append(path) or decode(path))
    taught(backbone, files)
    assert sorted(decoded) == sorted(paths)  # once, for all epochs and passes
    files.resized(backbone.preprocessing)
    assert len(decoded) == 2 * len(paths)  # and not kept


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [_rate(step, 100, TrainingSettings(warmup=0.1)) for step in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[10] == 1
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert _rate(0, 1, TrainingSettings(warmup=0.0)) == 1


def test_a_constant_rate_stays_once_it_has_risen() -> None:
    constant = TrainingSettings(warmup=0.1, schedule="constant")
    assert [_rate(step, 100, constant) for step in (0, 4, 9, 10, 55, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
