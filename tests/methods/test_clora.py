"""C-LoRA: what trains when, how the routing adds up, and the term in the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.base import Method
from duallora.methods.clora import CLoRA, CLoRAConfig
from tests_support import infos, learn, take_a_step


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_the_routing_adds_up_and_the_factors_stay(backbone: Backbone) -> None:
    method = CLoRA(backbone, CLoRAConfig(rank=3, delta_std=0.0))
    deltas: list[Tensor] = []

    def remember(m: Method) -> None:
        take_a_step(m)
        deltas.append(m.routed()[0].delta.detach().clone())
        m.before = m.encode(images(3, 9)).features

    learn(method, 0, images(8, 0), (0, 1), remember)
    torch.testing.assert_close(method.encode(images(3, 9)).features, method.before)
    A, B = (t.detach().clone() for t in (method.routed()[0].A, method.routed()[0].B))
    assert B.any()
    for t in (1, 2):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), remember)
        torch.testing.assert_close(method.encode(images(3, 9)).features, method.before)
    update = method.routed()[0]
    assert torch.equal(update.A, A) and torch.equal(update.B, B)
    assert all(delta.any() for delta in deltas)
    torch.testing.assert_close(update.R, sum(deltas))
    adapter = sum(v.numel() for k, v in method.state().items() if k.startswith("update."))
    assert adapter == 2 * 2 * (2 * 3 * backbone.dim + 3 * 3)  # blocks, maps, A and B and R: no growth with tasks


def test_the_loss_adds_the_term_of_every_map(backbone: Backbone) -> None:
    method = CLoRA(backbone, CLoRAConfig(rank=2, orthogonality=0.7))
    learn(method, 0, images(8, 0), (0, 1), take_a_step)
    method.begin_task(infos(1, (2, 3), 8), [])
    expected = 0.0
    for update in method.routed():
        torch.nn.init.normal_(update.delta)
        expected += np.linalg.norm(update.R.numpy().T @ update.delta.detach().numpy(), "fro") ** 2
    x, y = images(4, 9), torch.tensor([2, 3, 2, 3])
    plain = torch.nn.functional.cross_entropy(method.read.heads.newest(method.encode(x).features), y - 2)
    assert (method.loss(x, y) - plain).item() == pytest.approx(0.7 * expected, rel=1e-3)


@pytest.mark.parametrize(("overlap", "term"), [("rows", lambda R, D: R @ D.T), ("columns", lambda R, D: R.T @ D)])
def test_options_reach_the_routing(overlap: str, term: Callable[..., np.ndarray], backbone: Backbone) -> None:
    method = CLoRA(backbone, CLoRAConfig(rank=8, overlap=overlap, orthogonality=1.0, delta_std=0.3))
    learn(method, 0, images(8, 0), (0, 1), take_a_step)
    method.begin_task(infos(1, (2, 3), 8), [])
    deltas = torch.cat([update.delta.detach().flatten() for update in method.routed()])
    assert 0.2 < float(deltas.std()) < 0.4
    pairs = [(u.R.numpy(), u.delta.detach().numpy()) for u in method.routed()]
    expected = sum(np.linalg.norm(term(R, D), "fro") ** 2 for R, D in pairs)
    x, y = images(4, 9), torch.tensor([2, 3, 2, 3])
    plain = torch.nn.functional.cross_entropy(method.read.heads.newest(method.encode(x).features), y - 2)
    assert (method.loss(x, y) - plain).item() == pytest.approx(expected, rel=1e-3)


def test_factors_may_go_on_at_a_slower_rate(backbone: Backbone) -> None:
    method = CLoRA(backbone, CLoRAConfig(rank=2, factors="slow", slow_rate=0.05))
    learn(method, 0, images(8, 0), (0, 1), take_a_step)
    method.begin_task(infos(1, (2, 3), 8), [])
    usual, slow = method.groups()
    assert slow.rate == 0.05 and usual.rate == 1
    assert {id(p) for p in slow.parameters} == {id(p) for u in method.routed() for p in (u.A, u.B)}
    assert len(usual.parameters) + len(slow.parameters) == len(method.trainable())
    assert {id(u.delta) for u in method.routed()} <= {id(p) for p in usual.parameters}


def test_a_first_task_of_one_class_leaves_room_to_learn(backbone: Backbone) -> None:
    method = CLoRA(backbone, CLoRAConfig(rank=2))
    learn(method, 0, images(8, 0), (0,), take_a_step)
    assert not any(u.trained for u in method.routed())
    learn(method, 1, images(8, 1), (1, 2), take_a_step)
    assert all(u.trained for u in method.routed())
