"""The class token's attention, computed beside the block, is what timm computes inside it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from duallora.backbone import Backbone
from duallora.lowrank import class_attention, head_features


def test_it_is_the_class_row_of_the_blocks_own_attention(backbone: Backbone) -> None:
    attention = backbone.attention[0]
    attention.fused_attn = False
    seen = {}
    attention.attn_drop.register_forward_hook(lambda m, args, out: seen.update(weights=out))
    x = torch.randn(3, 5, backbone.dim, generator=torch.Generator().manual_seed(1))
    attention(x)
    ours = class_attention(attention.qkv(x), attention)
    torch.testing.assert_close(ours, seen["weights"][:, :, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.sum(-1), torch.ones(3, 2), atol=1e-6, rtol=0)


def test_feature_is_what_the_class_token_reads_through_the_value_map(backbone: Backbone) -> None:
    """With one head, value map times xbar (plus bias) is the class token's attention output."""
    attention = backbone.attention[0]
    attention.num_heads, attention.head_dim = 1, backbone.dim
    attention.scale = backbone.dim**-0.5
    x = torch.randn(2, 5, backbone.dim, generator=torch.Generator().manual_seed(2))
    xbar = head_features(x, attention.qkv(x), attention, class_token=True)[:, 0]
    weight, bias = attention.qkv.weight[2 * backbone.dim :], attention.qkv.bias[2 * backbone.dim :]
    expected = attention(x)[:, 0]
    torch.testing.assert_close(attention.proj(xbar @ weight.T + bias), expected, atol=1e-5, rtol=1e-5)


def test_without_class_token_the_mean_token_stands_in(backbones: Callable[..., Backbone]) -> None:
    backbone = backbones(class_token=False)
    x = torch.randn(2, 4, backbone.dim)
    feature = head_features(x, backbone.attention[0].qkv(x), backbone.attention[0], class_token=False)
    torch.testing.assert_close(feature, x.mean(1, keepdim=True))
