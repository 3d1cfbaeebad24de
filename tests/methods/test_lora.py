"""The baseline that forgets: one adapter, trained on and on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.lora import LoRA, LoRAConfig
from tests_support import infos, learn, take_a_step


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_it_goes_on_where_the_task_before_left_it(backbone: Backbone) -> None:
    method = LoRA(backbone, LoRAConfig(rank=3))
    learn(method, 0, images(8, 0), (0, 1), take_a_step)
    left = {name: (u.A.detach().clone(), u.B.detach().clone()) for name, u in method.updates().items()}
    assert all(B.any() for _, B in left.values())
    method.begin_task(infos(1, (2, 3), 8), [])
    for name, update in method.updates().items():
        assert torch.equal(update.A, left[name][0]) and torch.equal(update.B, left[name][1])
    assert {len(p) for p in method.read.heads.parameters() if p.requires_grad} == {2}  # of the newest head alone


def test_its_map_is_the_frozen_one_and_a_product_of_low_rank(backbone: Backbone) -> None:
    method = LoRA(backbone, LoRAConfig(rank=3, scale=0.5, placement=("query", "value"), blocks=(1,)))
    weight, bias = (
        p.detach().clone() for p in (backbone.attention[1].qkv.base.weight, backbone.attention[1].qkv.base.bias)
    )
    with torch.no_grad():
        for update in method.updates().values():
            update.A.normal_(), update.B.normal_()
    q, v = method.updates()["0.query"], method.updates()["0.value"]
    moved = weight.clone()
    moved[:32] += 0.5 * q.B @ q.A
    moved[64:] += 0.5 * v.B @ v.A
    x = torch.randn(2, 4, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.attention[1].qkv(x), x @ moved.T + bias, atol=1e-5, rtol=1e-5)
    assert len(method.updates()) == 2  # nothing in block 0


def test_gates_are_pushed_as_sora_has_it_by_default(backbone: Backbone) -> None:
    """10 times the mean |g| in the loss, and a proximal step of 3e-4 (methods.sora)."""
    method, x, y = LoRA(backbone, LoRAConfig(sparse=True)), images(4, 1), torch.tensor([0, 1, 1, 0])
    method.begin_task(infos(0, (0, 1), 4), [])
    gates = torch.cat([update.gate for update in method.gated()]).detach().clone()
    plain = torch.nn.functional.cross_entropy(method.read.heads.newest(backbone(x)), y)
    assert (method.loss(x, y) - plain).item() == pytest.approx(10 * gates.abs().mean().item(), rel=1e-4)
    method.after_step()
    after = torch.cat([update.gate for update in method.gated()]).detach()
    torch.testing.assert_close(after, torch.nn.functional.softshrink(gates, 3e-4), atol=1e-8, rtol=1e-6)


def test_that_every_gate_is_shut_is_told_once(backbone: Backbone) -> None:
    method = LoRA(backbone, LoRAConfig(sparse=True))
    notes = []

    def shut(m: LoRA) -> None:
        for update in m.gated():
            update.gate.data.zero_()

    for t in range(2):
        learn(method, t, images(4, t), (2 * t, 2 * t + 1), shut)
        notes.append(method.log.notes)
    assert notes == [["all gates are shut: nothing of the adapter is left, the network is as it came"], []]
