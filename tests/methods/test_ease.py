"""EASE: synthesised prototypes by hand and by loops, the adapter and the score by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.lowrank.bottleneck import Bottleneck
from duallora.methods.ease import EASE, TEMPERATURE, EASEConfig
from duallora.methods.prototypes import complement
from tests_support import infos, learn, take_a_step

TASKS = [(0, 1), (2,), (1, 3, 4)]


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def taught(backbone: Backbone, tasks: int = 3, **options: object) -> EASE:
    torch.manual_seed(0)
    method = EASE(backbone, EASEConfig(rank=4, **options))
    for t, classes in enumerate(TASKS[:tasks]):
        learn(method, t, images(12, t), classes, take_a_step)
    return method


def test_an_old_prototype_follows_what_it_is_like() -> None:
    old = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])  # classes a, b in subspace 0
    new = torch.tensor([[[3.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])  # c like a, d like b, in subspaces 0, 1
    full = complement([old, new])
    e = math.e
    # cosines of a to (c, d) are (1, 0): softmax (e, 1) / (e + 1), on (2, 0) and (0, 3)
    expected = torch.tensor([[2 * e, 3], [2, 3 * e]]) / (e + 1)
    torch.testing.assert_close(full[:2, 1], expected)
    assert torch.equal(full[2:], new)
    assert torch.equal(full[:2, :1], old)


def test_it_trains_the_newest_adapter_by_cosines_to_the_tasks_own_classes(backbones: Callable[..., Backbone]) -> None:
    method, x = taught(backbones(), 1, sigma=3.0), images(4, 8)
    method.begin_task(infos(1, (4, 2), 4), [])
    labels = torch.tensor([2, 4, 4, 2])
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for parameter in method.adapters.parameters():
            parameter.normal_(std=0.1, generator=draw)
        method._active = 1
        f = method.backbone(x).double().numpy()
    w = method.head.detach().double().numpy()
    assert w.shape == (2, f.shape[1]) and method.sigma.item() == 3.0
    cosines = (f @ w.T) / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    z = 3.0 * cosines
    own = [(4, 2).index(int(label)) for label in labels]
    expected = np.mean([np.log(np.exp(z[i]).sum()) - z[i, own[i]] for i in range(4)])
    loss = method.loss(x, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert not any(p.requires_grad for p in method.adapters[0].parameters())
    assert any(p.grad.any() for p in method.adapters[1].parameters())
    assert method.head.grad.any() and method.sigma.grad.any()


@pytest.mark.parametrize("fresh", [True, False])
def test_synthesis_over_several_tasks_is_that_of_plain_loops(fresh: bool) -> None:
    g = torch.Generator().manual_seed(0)
    measured = [torch.randn(n, i + 1, 3, generator=g, dtype=torch.float64) for i, n in enumerate((2, 1, 3, 2))]
    full = complement(measured, fresh).numpy()
    task = [i for i, p in enumerate(measured) for _ in p]
    known = [p[c].numpy() for p in measured for c in range(len(p))]
    for r, i in enumerate(task):
        for s in range(i + 1, 4):
            others = [j for j, t in enumerate(task) if (t >= s if fresh else t == s)]
            u = known[r][i]
            likeness = [u @ known[j][i] / np.linalg.norm(u) / np.linalg.norm(known[j][i]) for j in others]
            weight = np.exp(likeness) / np.exp(likeness).sum()
            np.testing.assert_allclose(full[r, s], sum(w * known[j][s] for w, j in zip(weight, others, strict=True)))


def test_the_adapter_is_a_bottleneck_beside_the_mlp(backbones: Callable[..., Backbone]) -> None:
    adapter = Bottleneck(2, rank=2, scale=0.5)
    for parameter, value in zip(
        adapter.parameters(), ([[1, 0], [0, 1]], [0, -1], [[1, 2], [3, 4]], [1, 0]), strict=True
    ):
        parameter.data.copy_(torch.tensor(value))
    # x = (2, 0): down (2, -1), ReLU (2, 0), up (2, 6) + (1, 0), halved
    assert adapter(torch.tensor([2.0, 0.0])).tolist() == [1.5, 3.0]
    method, x = taught(backbones(), 1), images(3, 9)
    method._active = 0
    mlp, tokens = method.backbone.vit.blocks[1].mlp, torch.randn(2, 4, 32)
    bare = mlp.fc2(mlp.act(mlp.fc1(tokens)))
    torch.testing.assert_close(mlp(tokens), bare + method.adapters[0][1](tokens))
    assert not torch.allclose(mlp(tokens), bare)
    torch.testing.assert_close(method._features(x, None), backbones()(x), atol=0, rtol=0)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_prototypes_and_scores_by_hand(backbones: Callable[..., Backbone], beta: float) -> None:
    method = taught(backbones(), alpha=0.3, beta=beta)
    x, frozen = images(5, 9), backbones()
    assert method.cost().passes_per_image == 3 + (beta > 0)
    seen = images(12, 1)  # of task 1, which has one class
    for s in (0, 1):
        torch.testing.assert_close(method.measured[1][0, s], method._features(seen, s).mean(0))
    full = complement([p[:, : t + 1] for t, p in enumerate(method.measured)])
    means = [
        method._features(images(12, t), None)[c :: len(k)].mean(0) for t, k in enumerate(TASKS) for c in range(len(k))
    ]
    rows = method(x).rows * TEMPERATURE
    for r, t in enumerate(method.rows.tasks):
        expected = torch.zeros(5)
        for s in range(3):
            cosine = torch.cosine_similarity(method._features(x, s), full[r, s].unsqueeze(0))
            expected += cosine * (1 if s == t else 0.3 / 2)
        if beta:
            expected += beta * torch.cosine_similarity(frozen(x), means[r].unsqueeze(0))
        torch.testing.assert_close(rows[:, r], expected, atol=1e-5, rtol=0)


def test_a_task_does_not_touch_earlier_subspaces(backbone: Backbone) -> None:
    method, x = taught(backbone, 1), images(4, 9)
    before = method._features(x, 0)
    learn(method, 1, images(12, 1), TASKS[1], take_a_step)
    assert torch.equal(method._features(x, 0), before)
    assert method.trainable() == []


def test_a_backbone_carries_one_method(backbone: Backbone) -> None:
    taught(backbone, 1)
    with pytest.raises(DualLoRAError, match="one method"):
        EASE(backbone, EASEConfig())


def test_a_state_of_other_options_is_refused(backbones: Callable[..., Backbone]) -> None:
    state = taught(backbones()).state()
    with pytest.raises(DualLoRAError, match="do not fit"):
        EASE(backbones(), EASEConfig(rank=8)).load_state(state)
