"""Frozen weights are converted once under autocast: the same answers, and never those of weights that were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from duallora.backbone import load_backbone
from duallora.backbone.cast_once import CastOnce, cast_once


def frozen(bias: bool = True) -> nn.Linear:
    return nn.Linear(6, 3, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
def test_answers_are_those_of_the_map_itself(bias: bool) -> None:
    linear, x = frozen(bias), torch.randn(4, 6)
    ours = CastOnce(linear)
    for _ in range(2):
        assert torch.equal(ours(x), linear(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
            assert torch.equal(ours(x), linear(x))
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(ours(x), linear(x))


def test_weights_are_converted_once() -> None:
    ours, x = CastOnce(frozen()), torch.randn(4, 6)
    ours(x)
    assert ours._low is None  # no copy where none is needed
    with torch.autocast("cpu", torch.bfloat16):
        ours(x)
        low = ours._low
        ours(x)
    assert low is not None
    assert ours._low is low


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_a_change_is_followed(which: str) -> None:
    linear, x = frozen(), torch.randn(4, 6)
    ours = CastOnce(linear)
    with torch.autocast("cpu", torch.bfloat16):
        before = ours(x)
        with torch.no_grad():
            getattr(linear, which)[:1] += 1
        assert torch.equal(ours(x), linear(x))
        assert not torch.equal(ours(x), before)
        setattr(ours, which, nn.Parameter(torch.zeros_like(getattr(ours, which)), requires_grad=False))
        setattr(linear, which, getattr(ours, which))
        assert torch.equal(ours(x), linear(x))


def test_what_is_trained_gets_its_gradient_and_what_is_not_passes_it_on() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    trained = CastOnce(nn.Linear(6, 3))
    held = CastOnce(frozen())
    with torch.autocast("cpu", torch.bfloat16):
        trained(x).sum().backward()
        assert trained.weight.grad is not None
        assert trained._low is None
        x.grad = None
        held(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, held.weight.sum(0).expand(4, -1), rtol=2e-2, atol=2e-2)


def test_parameters_keep_their_names_and_no_weight_is_drawn() -> None:
    net = nn.Sequential(frozen(), nn.Sequential(nn.GELU(), frozen()))
    before, state = dict(net.named_parameters()), torch.get_rng_state()
    cast_once(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: p is before[name] for name, p in net.named_parameters()} == dict.fromkeys(before, True)
    assert [type(m) for m in net.modules() if isinstance(m, nn.Linear)] == [CastOnce, CastOnce]
    cast_once(net)  # twice is once
    assert sum(isinstance(m, CastOnce) for m in net.modules()) == 2


def test_a_backbone_answers_as_timms_network_does() -> None:
    torch.manual_seed(0)
    backbone = load_backbone("test_vit", pretrained=False, image_size=32)
    plain = load_backbone("test_vit", pretrained=False, image_size=32)
    for module in plain.vit.modules():
        if isinstance(module, CastOnce):
            module.__class__ = nn.Linear  # type: ignore[assignment]
    plain.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone(images), plain(images))
        assert torch.equal(backbone(images), plain(images))
    assert backbone.sha256 != plain.sha256
    assert list(backbone.state_dict()) == list(plain.state_dict())


def test_training_goes_on_after_answers_in_inference_mode() -> None:
    ours, x = CastOnce(frozen()), torch.randn(4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            ours(x)
        ours(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
