"""SLCA: two learning rates through the real loop, and a fine-tuned backbone that is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from duallora import Learner
from duallora.backbone import Backbone
from duallora.data import ImageSet
from duallora.data.batches import Batches
from duallora.errors import DualLoRAError
from duallora.methods import TaskInfo, get_method
from duallora.methods.slca import SLCA, SLCAConfig
from duallora.training.device import Session
from duallora.training.loop import learn_task
from duallora.training.settings import TrainingSettings
from tests_support import learn, take_a_step


def one_task(method: SLCA, images: ImageSet, **settings: object) -> None:
    """The real loop over a task of two classes."""
    fixed = {"precision": "float32", "augment": "none", "batch_size": len(images), "warmup": 0.0, "epochs": 1}
    chosen = TrainingSettings(**(dict(SLCA.recommended) | fixed | settings))
    learn_task(
        method,
        TaskInfo(0, (0, 1), len(images)),
        images,
        torch.arange(2),
        method.backbone.preprocessing,
        chosen,
        Session.of(chosen.precision, torch.device("cpu")),
        seed=3,
        progress=False,
    )


def test_backbone_and_heads_step_at_their_own_rates(
    backbones: Callable[..., Backbone], images: Callable[..., ImageSet]
) -> None:
    """One step of SGD on one batch is p - rate (gradient + decay p), worked out beside it with autograd."""
    task, config = images(2, 6), SLCAConfig(backbone_rate=0.05)
    start = SLCA(backbones(), config)
    one_task(start, task, epochs=0)  # the same seed draws the same head
    method = SLCA(backbones(), config)
    one_task(method, task, learning_rate=0.2, weight_decay=0.1)

    batches = Batches(task, start.backbone.preprocessing, batch_size=len(task), label_map=torch.arange(2))
    ((x, y),) = list(batches)
    weight = start.read.heads.weights[0].detach().clone().requires_grad_()
    F.cross_entropy(start.backbone(x) @ weight.T + start.read.heads.biases[0].detach(), y).backward()
    expected = weight.detach() - 0.2 * (weight.grad + 0.1 * weight.detach())
    torch.testing.assert_close(method.read.heads.weights[0].data, expected, rtol=1e-4, atol=1e-6)
    for (name, after), before in zip(method.backbone.named_parameters(), start.backbone.parameters(), strict=True):
        slow = before.detach() - 0.05 * 0.2 * (before.grad + 0.1 * before.detach())
        torch.testing.assert_close(after.data, slow, rtol=1e-4, atol=1e-6, msg=name)


def test_every_weight_of_the_backbone_trains_and_nothing_twice(backbone: Backbone) -> None:
    method = SLCA(backbone, SLCAConfig())
    learn(method, 0, torch.randn(6, 3, 16, 16), (0, 1))
    method.begin_task(TaskInfo(1, (2, 3), 6), [])
    fast, slow = method.groups()
    assert {id(p) for p in slow.parameters} == {id(p) for p in backbone.parameters()}
    assert [len(p) for p in fast.parameters] == [2, 2]  # weight and bias of the newest head alone
    grouped = [id(p) for g in (fast, slow) for p in g.parameters]
    assert sorted(grouped) == sorted(id(p) for p in method.trainable())
    assert (fast.rate, slow.rate) == (1.0, 0.01)
    assert not get_method("slca").frozen


def test_the_fine_tuned_backbone_is_kept_and_restored(backbones: Callable[..., Backbone]) -> None:
    torch.manual_seed(0)
    method = SLCA(backbones(), SLCAConfig())
    learn(method, 0, torch.randn(8, 3, 16, 16), (0, 1), take_a_step)
    state = {k: v.clone() for k, v in method.state().items()}
    fresh = backbones()
    x = torch.randn(3, 3, 16, 16)
    assert not torch.allclose(fresh(x), method.backbone(x), atol=1e-3)
    other = SLCA(fresh, SLCAConfig())
    other.load_state(state)
    assert torch.equal(fresh(x), method.backbone(x))
    weights = sum(p.numel() * 4 for p in fresh.parameters())
    assert method.cost().bytes_kept > weights
    with pytest.raises(DualLoRAError, match=r"backbone\.vit\..*load the model on the backbone"):
        SLCA(backbones(dim=16), SLCAConfig()).load_state(state)
    with pytest.raises(DualLoRAError, match=r"backbone\.more was saved, but this backbone has none"):
        SLCA(backbones(), SLCAConfig()).load_state(state | {"backbone.more": x})


def test_a_saved_model_continues(
    tmp_path: Path,
    images: Callable[..., ImageSet],
    monkeypatch: pytest.MonkeyPatch,
    backbones: Callable[..., Backbone],
) -> None:
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones())
    learner = Learner.create(method="slca", training={"epochs": 1, "batch_size": 8})
    assert (learner.training.optimizer, learner.training.learning_rate) == ("sgd", 0.01)
    learner.learn(images(2, 8, names="a"), progress=False)
    learner.save(tmp_path / "zoo")
    loaded = Learner.load(tmp_path / "zoo")
    for each in (learner, loaded):
        each.learn(images(2, 8, seed=3000, names="b"), progress=False)
    assert all(torch.equal(v, loaded.method.state()[k]) for k, v in learner.method.state().items())
