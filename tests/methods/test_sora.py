"""SoRA in sequence: what the loss holds, that pruning and folding keep the function, and gates as an option of lora."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.base import Method
from duallora.methods.lora import LoRA, LoRAConfig
from duallora.methods.sora import SoRA, SoRAConfig
from tests_support import infos, learn


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def shutting(method: Method) -> None:
    """Steps after which B has learned something and every other gate is shut."""
    step = torch.optim.SGD(method.trainable(), lr=0.1)
    for _ in range(2):
        step.zero_grad()
        method.loss(*method.batch).backward()
        step.step()
        method.after_step()
    for update in method.gated():
        update.gate.data[::2] = 0
    method.before = method.encode(images(3, 9)).features


def test_the_loss_adds_the_mean_gate_and_a_step_shrinks(backbone: Backbone) -> None:
    method = SoRA(backbone, SoRAConfig(gate_penalty=2.0, xi=0.25, rank=3))
    method.begin_task(infos(0, (0, 1), 8), [])
    x, y = images(4, 0), torch.tensor([0, 1, 0, 1])
    gates = torch.cat([u.gate for u in method.gated()]).detach()
    assert len(gates) == 2 * 4 * 3  # blocks, maps, rank
    plain = torch.nn.functional.cross_entropy(method.read.heads.newest(method.encode(x).features), y)
    assert (method.loss(x, y) - plain).item() == pytest.approx(2 * float(gates.abs().mean()), rel=1e-4)
    method.after_step()
    after = torch.cat([u.gate for u in method.gated()]).detach()
    torch.testing.assert_close(after, torch.nn.functional.softshrink(gates, 0.25))


def test_the_threshold_is_the_one_asked_for(backbone: Backbone) -> None:
    method = SoRA(backbone, SoRAConfig(xi=0.25, rank=3, threshold="dead-zone"))
    method.begin_task(infos(0, (0, 1), 8), [])
    with torch.no_grad():
        for update in method.gated():
            update.gate.copy_(torch.tensor([0.3, -0.45, 0.9]))  # two are below 2 xi
    method.after_step()
    for update in method.gated():
        torch.testing.assert_close(update.gate.detach(), torch.tensor([0.0, 0.0, 0.65]))


def test_survivors_are_folded_and_the_next_task_starts_with_full_rank(backbone: Backbone) -> None:
    method = SoRA(backbone, SoRAConfig(rank=4, placement=("query", "value")))
    frozen = backbone.attention[0].qkv.weight.clone()
    learn(method, 0, images(8, 0), (0, 1), shutting)
    torch.testing.assert_close(method.encode(images(3, 9)).features, method.before)
    assert method.ranks() == [2 * 2 * 2]
    width = backbone.dim
    moved = (backbone.attention[0].qkv.weight - frozen).split(width)
    expected = [f.B @ f.A for f in (method.folded()["0.query"], method.folded()["0.value"])]
    torch.testing.assert_close(moved[0], expected[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(moved[2], expected[1], atol=1e-6, rtol=1e-4)
    assert not moved[1].any() and moved[2].any()
    learn(method, 1, images(8, 1), (2, 3), shutting)
    assert all(len(u.gate) in (2, 4) for u in method.gated())
    assert method.ranks() == [8, 8]


def test_a_task_in_which_no_direction_survives_says_so(backbone: Backbone) -> None:
    method = SoRA(backbone, SoRAConfig(rank=2, xi=100.0, placement=("query", "value")))
    learn(method, 0, images(8, 0), (0, 1), lambda m: m.after_step())
    assert method.ranks() == [0]
    assert "Lower `xi` (now 100)" in method.log.notes[0]
    learn(method, 1, images(8, 1), (2, 3))
    assert method.ranks() == [0, 8] and not method.log.notes


def test_gates_as_an_option_of_lora(backbones: Callable[..., Backbone]) -> None:
    config = LoRAConfig(rank=4, sparse=True)
    method = LoRA(backbones(), config)
    learn(method, 0, images(8, 0), (0, 1), shutting)
    torch.testing.assert_close(method.encode(images(3, 9)).features, method.before)
    assert [len(u.gate) for u in method.gated()] == [2, 2]
    other = LoRA(backbones(), config)
    other.load_state({k: v.clone() for k, v in method.state().items()})
    assert torch.equal(other(images(3, 9)).rows, method(images(3, 9)).rows)
    for m in (method, other):
        torch.manual_seed(1)
        learn(m, 1, images(8, 1), (2, 3), shutting)
    assert [len(u.gate) for u in method.gated()] == [1, 1]  # the rank only falls
    assert torch.equal(other(images(3, 9)).rows, method(images(3, 9)).rows)
