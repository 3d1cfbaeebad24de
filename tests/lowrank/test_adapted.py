"""Where updates go, and that they start at zero and touch nothing else."""

from __future__ import annotations

import pytest
import torch

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.lowrank import AdaptedLinear, slots


@pytest.mark.parametrize("target", ["query", "key", "value", "proj"])
def test_an_update_changes_its_own_rows_only(backbone: Backbone, target: str) -> None:
    (slot,) = slots(backbone.attention, [target], [0])
    base, d = slot.linear, backbone.dim
    adapted = AdaptedLinear(slot, rank=3, scale=2.0)
    x = torch.randn(2, 5, d)
    assert torch.equal(adapted(x), base(x))
    update = adapted.updates[target]
    torch.nn.init.normal_(update.B)
    change = adapted(x) - base(x)
    first = {"query": 0, "key": d, "value": 2 * d, "proj": 0}[target]
    torch.testing.assert_close(change[..., first : first + d], 2 * x @ update.matrix().T, atol=1e-4, rtol=1e-4)
    change[..., first : first + d] = 0
    assert change.abs().max() == 0


def test_gradients_reach_the_factors_and_not_the_map(backbone: Backbone) -> None:
    for slot in slots(backbone.attention, ["value", "query"]):
        slot.attach(AdaptedLinear(slot, rank=2))
    for module in backbone.modules():
        if isinstance(module, AdaptedLinear):
            for update in module.updates.values():
                torch.nn.init.normal_(update.B, std=0.1)
    backbone(torch.randn(2, 3, 16, 16)).square().sum().backward()
    grads = {name: p.grad for name, p in backbone.named_parameters()}
    assert all((g is not None and g.abs().sum() > 0) == ("updates" in name) for name, g in grads.items())


def test_blocks_count_from_the_end_too(backbone: Backbone) -> None:
    assert [s.block for s in slots(backbone.attention, ["value"], [-1, 1])] == [1]
    assert [(s.block, s.attribute) for s in slots(backbone.attention, ["proj", "value"])] == [
        (0, "qkv"),
        (0, "proj"),
        (1, "qkv"),
        (1, "proj"),
    ]


def test_what_does_not_exist_is_named(backbone: Backbone) -> None:
    with pytest.raises(DualLoRAError, match="did you mean 'value'"):
        slots(backbone.attention, ["values"])
    with pytest.raises(DualLoRAError, match=r"block.* 7 does not exist; this backbone has blocks 0 to 1"):
        slots(backbone.attention, ["value"], [7])


def test_no_block_at_all_is_a_mistake(backbone: Backbone) -> None:
    with pytest.raises(DualLoRAError, match="none is named; give some of 0 to 1"):
        slots(backbone.attention, ["value"], blocks=[])


def test_a_backbone_carries_one_method(backbone: Backbone) -> None:
    (slot,) = slots(backbone.attention, ["value"], [0])
    slot.attach(AdaptedLinear(slot, rank=2))
    with pytest.raises(DualLoRAError, match="load_backbone"):
        slots(backbone.attention, ["value"])
