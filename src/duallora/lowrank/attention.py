"""What the class token reads: its attention, computed beside the frozen block from one query row."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def class_attention(qkv: Tensor, attention: nn.Module) -> Tensor:
    """Attention of the class token to all tokens, per head.

    Args:
        qkv: (b, N, 3 H c), output of the fused qkv map, class token first.
        attention: timm's attention module (`num_heads`, `scale`, `q_norm`, `k_norm`).

    Returns:
        (b, H, N), float32, rows sum to one: softmax(q_cls K^T / sqrt(c)) of DualLoRA's class-attention feature.
    """
    b, n, width = qkv.shape
    heads: int = attention.num_heads  # type: ignore[assignment]
    q, k = qkv[:, :1, : width // 3], qkv[:, :, width // 3 : 2 * width // 3]
    q = attention.q_norm(q.reshape(b, 1, heads, -1).transpose(1, 2))  # type: ignore[operator]
    k = attention.k_norm(k.reshape(b, n, heads, -1).transpose(1, 2))  # type: ignore[operator]
    scores = (q @ k.transpose(-2, -1)).squeeze(2).float() * attention.scale
    return torch.softmax(scores, dim=-1)


def head_features(x: Tensor, qkv: Tensor, attention: nn.Module, class_token: bool) -> Tensor:
    """Per-head class-attention features a_h X: (b, H, d), float32; their mean over heads is xbar.

    Args:
        x: (b, N, d), input of the qkv map.
        qkv: (b, N, 3 H c), its output.
        attention: the attention module that the map belongs to.
        class_token: False for a backbone without class token: the mean token stands in, as (b, 1, d).
    """
    if not class_token:
        return x.float().mean(1, keepdim=True)
    return class_attention(qkv, attention) @ x.float()
