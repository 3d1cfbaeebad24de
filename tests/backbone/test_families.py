"""Each family of plain vision transformers, by its timm name but small, and networks that cannot serve."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from duallora.backbone.load import Backbone, load_backbone
from duallora.compat import import_timm
from duallora.errors import DualLoRAError

timm = import_timm()

CLASS_TOKEN = [
    "vit_base_patch16_224",
    "deit_small_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_reg4_dinov2",  # SwiGLU
    "vit_base_patch32_clip_224",  # a norm before the blocks
]
NO_CLASS_TOKEN = ["vit_medium_patch16_gap_240", "vit_medium_patch16_reg1_gap_256", "test_vit2"]
OTHER_POOLING = ["vit_base_patch16_siglip_224", "deit_tiny_distilled_patch16_224"]
FAMILIES = [*CLASS_TOKEN, *NO_CLASS_TOKEN, *OTHER_POOLING]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm build its families two blocks deep and 48 wide."""
    create = timm.create_model

    def create_small(name: str, **settings: Any) -> nn.Module:
        assert not settings["pretrained"], "nothing may be fetched here"
        shape = {"embed_dim": 48, "depth": 2, "num_heads": 3}
        if name.startswith(("vit", "deit", "eva", "beit", "test_vit2")) and "relpos" not in name:
            settings |= shape
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", create_small)


def tiny(name: str) -> Backbone:
    torch.manual_seed(0)
    patch = 14 if "patch14" in name else 32 if "patch32" in name else 16
    backbone = load_backbone(name, pretrained=False, image_size=3 * patch)
    with torch.no_grad():  # layer scales of 1e-5 would hide what a block does
        for key, value in backbone.vit.named_parameters():
            if key.endswith("gamma"):
                value.fill_(1.0)
    return backbone


def images(backbone: Backbone) -> Tensor:
    size = backbone.preprocessing.size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_frozen_and_gives_features(name: str) -> None:
    backbone = tiny(name)
    features = backbone.train()(images(backbone))
    assert features.shape == (2, 48) == (2, backbone.dim)
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1])
    assert (backbone.depth, backbone.num_heads, len(backbone.attention)) == (2, 3, 2)
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", CLASS_TOKEN)
def test_features_are_the_normed_class_token(name: str) -> None:
    backbone = tiny(name)
    x = images(backbone)
    assert backbone.has_class_token
    torch.testing.assert_close(backbone(x), backbone.vit(x))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", NO_CLASS_TOKEN)
def test_without_class_token_features_are_the_mean_patch(name: str) -> None:
    backbone = tiny(name)
    x = images(backbone)
    assert not backbone.has_class_token
    torch.testing.assert_close(backbone(x), backbone.vit(x))  # timm's own average: no registers, norm after it


@pytest.mark.usefixtures("small")
def test_attention_pooling_is_left_out() -> None:
    backbone = tiny("vit_base_patch16_siglip_224")
    x = images(backbone)
    assert not any("attn_pool" in key for key in backbone.state_dict())
    torch.testing.assert_close(backbone(x), backbone.vit.forward_features(x).mean(1))


@pytest.mark.usefixtures("small")
def test_of_two_tokens_the_class_token_counts() -> None:
    backbone = tiny("deit_tiny_distilled_patch16_224")
    x = images(backbone)
    torch.testing.assert_close(backbone(x), backbone.vit.forward_features(x)[:, 0])


@pytest.mark.usefixtures("small")
def test_the_variants_are_what_they_say() -> None:
    assert tiny("vit_small_patch14_reg4_dinov2").vit.num_prefix_tokens == 5
    mlp = tiny("vit_giant_patch14_reg4_dinov2").vit.blocks[0].mlp
    assert isinstance(mlp, timm.layers.GluMlp)  # with SiLU: timm's packed form of SwiGLU
    assert isinstance(mlp.act, nn.SiLU)
    assert isinstance(tiny("vit_base_patch32_clip_224").vit.norm_pre, nn.LayerNorm)


class Recorder(nn.Module):
    """Stands in for a linear map, remembers what passed and may add to it."""

    def __init__(self, linear: nn.Module, add: float = 0.0) -> None:
        super().__init__()
        self.linear, self.add, self.seen = linear, add, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        self.out = self.linear(x) + self.add
        return self.out


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_a_plain_softmax_of_what_the_wrapped_map_gives(name: str) -> None:
    backbone = tiny(name)
    x = images(backbone)
    before = backbone(x)
    for attention in backbone.attention:
        assert isinstance(attention.qkv, nn.Linear)
        assert attention.qkv.weight.shape == (144, 48)
        attention.qkv, attention.proj = Recorder(attention.qkv), Recorder(attention.proj)
    torch.testing.assert_close(backbone(x), before, rtol=0, atol=0)
    attention = backbone.attention[-1]
    b, n, _ = attention.qkv.out.shape
    q, k, v = attention.qkv.out.reshape(b, n, 3, 3, 16).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    mixed = torch.softmax(q @ k.transpose(-2, -1) * attention.scale, dim=-1) @ v
    torch.testing.assert_close(mixed.transpose(1, 2).reshape(b, n, 48), attention.proj.seen)
    attention.qkv.add = 0.5
    assert not torch.allclose(backbone(x), before)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "test_convnext",
        "test_resnet",
        "test_vit_relpos",
        "mobilevit_xxs",
        "eva02_base_patch14_224",  # q, k and v apart
        "eva02_tiny_patch14_224",  # reads qkv.weight without calling the module
        "beit_base_patch16_224",  # the same
        "vit_small_patch16_dinov3",  # rotary positions
    ],
)
def test_others_are_refused_before_anything_is_fetched(name: str) -> None:
    with pytest.raises(DualLoRAError, match=r"fused `attn\.qkv`.*These serve: .*vit_.*deit.*'bundled'") as caught:
        load_backbone(name)
    assert f"'{name}'" in str(caught.value)


def test_blocks_without_an_attention_of_their_own_are_refused() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

    from duallora.backbone.frozen import check_serves

    vit = VisionTransformer(img_size=32, embed_dim=48, depth=1, num_heads=3, block_fn=ParallelScalingBlock)
    with pytest.raises(DualLoRAError, match="block 0"):
        check_serves(vit, "vit_parallel")


def test_in_bfloat16_on_a_processor_plain_products_replace_the_fused_attention_in_training() -> None:
    backbone = load_backbone("test_vit", pretrained=False, image_size=64)
    x = torch.randn(2, 3, 64, 64)
    full = backbone(x)
    assert all(attention.fused_attn for attention in backbone.attention)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(x)
        assert not any(attention.fused_attn for attention in backbone.attention)
        with torch.no_grad():  # it is the backward pass that is slow
            torch.testing.assert_close(backbone(x).float(), half.float(), rtol=0.05, atol=0.05)
        assert all(attention.fused_attn for attention in backbone.attention)
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)
    assert torch.equal(backbone(x), full)
    assert all(attention.fused_attn for attention in backbone.attention)
    for attention in backbone.attention:
        attention.fused_attn = False
    backbone._fused = False
    torch.testing.assert_close(backbone(x), full, rtol=1e-5, atol=1e-5)
    assert not backbone.bfloat16().attention[0].fused_attn


def test_a_copy_is_independent() -> None:
    backbone = load_backbone("test_vit", pretrained=False, image_size=32)
    twin = copy.deepcopy(backbone)
    assert twin.attention[0] is twin.vit.blocks[0].attn is not backbone.attention[0]
