"""Features from several depths of one pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from duallora.backbone import Backbone, load_backbone
from duallora.backbone.levels import fitting
from duallora.errors import DualLoRAError

Make = Callable[..., Backbone]


@pytest.fixture
def with_levels(backbones: Make) -> Callable[..., Backbone]:
    def make(levels: int | None, class_token: bool = True) -> Backbone:
        plain = backbones(class_token=class_token, depth=3)
        return Backbone(plain.vit, "tiny", plain.preprocessing, levels=levels)

    return make


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("class_token", [True, False])
def test_they_are_the_normalised_tokens_of_the_last_blocks(
    class_token: bool, backbones: Make, with_levels: Make
) -> None:
    x = images()
    final = backbones(class_token=class_token, depth=3)(x)
    backbone = with_levels(2, class_token)
    vit = backbone.vit
    _, blocks = vit.forward_intermediates(x, norm=False, output_fmt="NLC", return_prefix_tokens=class_token)
    expected = [final]
    for number in (2, 1):
        patches, prefix = blocks[number] if class_token else (blocks[number], None)
        if number == 1 and class_token:
            expected.append(F.layer_norm(prefix[:, 0], (32,)))
        if number == 1 or class_token:
            expected.append(F.layer_norm(patches.mean(1), (32,)))
    found = backbone(x)
    torch.testing.assert_close(found, torch.cat(expected, 1))
    assert found.shape[1] == backbone.features == (32 * 4 if class_token else 32 * 2)


def test_no_level_is_the_final_feature_alone(backbones: Make, with_levels: Make) -> None:
    torch.testing.assert_close(with_levels(0)(images()), backbones(depth=3)(images()))


def test_a_pass_leaves_nothing_behind(with_levels: Make) -> None:
    backbone = with_levels(3)
    first = backbone(images(2))
    backbone(images(3))
    assert torch.equal(backbone(images(2)), first)


def test_a_pass_may_go_without_them(with_levels: Make) -> None:
    backbone = with_levels(3)
    whole = backbone(images())
    torch.testing.assert_close(backbone(images(), levels=False), whole[:, :32])
    assert torch.equal(backbone(images()), whole), "the next pass has them again"


def test_gradients_reach_every_level(with_levels: Make) -> None:
    backbone = with_levels(3)
    x = images().requires_grad_()
    backbone(x)[:, -32:].square().mul(torch.arange(32)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_as_many_as_fit(with_levels: Make) -> None:
    assert fitting(192, 12, True) == 6
    assert fitting(1024, 24, True) == 1
    assert with_levels(None).levels == 3


@pytest.mark.parametrize("levels", [-1, 4])
def test_more_than_there_are_is_told(levels: int, with_levels: Make) -> None:
    with pytest.raises(DualLoRAError, match="give 0 to 3"):
        with_levels(levels)


def test_the_bundled_backbone_is_read_from_its_last_six_blocks() -> None:
    backbone = load_backbone(levels=None)
    assert (backbone.levels, backbone.depth, backbone.features) == (6, 12, 2304)
