"""A frozen plain vision transformer as everything else sees it: images in, one feature vector per image out."""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor, nn

from duallora.backbone.cast_once import cast_once
from duallora.backbone.levels import Levels, fitting
from duallora.backbone.weights_file import weights_sha256
from duallora.compat import import_timm
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError

SERVING = (
    "These serve: timm's plain vision transformers (vit_*_patch*, deit_*, deit3_*, flexivit_*; also vit_*_dinov2, "
    "vit_*_reg4_dinov2, vit_*_clip_*, vit_*_siglip_*), for example 'vit_small_patch14_dinov2.lvd142m', and 'bundled'"
)


class Backbone(nn.Module):
    """A timm `VisionTransformer` without classifier: frozen, in evaluation mode always, with what it needs to be used.

    Attributes:
        vit: the network. Its `blocks[i].attn.qkv` is an `nn.Linear(dim, 3 * dim)` that may be wrapped in place.
        name: what `load_backbone` was asked for, with timm's tag of the weights where timm chose one.
        sha256: of the weights as loaded, see `weights_sha256`; neither the file's format nor `image_size` changes it.
        preprocessing: size, mean, std, interpolation and crop that the network expects.
        dim: width d of a token.
        levels: how many of the last blocks the features are read from; 0 is the final feature alone.
        features: number D of features per image, d where `levels` is 0.
        depth: number of blocks.
        num_heads: attention heads per block.
        has_class_token: whether the features are the class token's; else they are the mean of the patch tokens.
    """

    def __init__(
        self,
        vit: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        image_size: int | None = None,
        levels: int | None = 0,
    ) -> None:
        """Take the classifier off, freeze what is left and, with `image_size`, fit the position embedding to it.

        `levels` None takes as many as `fitting` finds room for.

        Raises:
            DualLoRAError: `vit` is no plain vision transformer, its patches do not divide `image_size`, or it has
                fewer blocks than `levels`.
        """
        check_serves(vit, name)
        super().__init__()
        remove_head(vit)
        self.vit = vit.requires_grad_(False)
        cast_once(vit.blocks)  # type: ignore[arg-type]
        self.name = name
        self.sha256 = weights_sha256(vit.state_dict())  # before the size changes: resampled positions are derived
        size = preprocessing.size if image_size is None else image_size
        set_image_size(vit, size, name)
        self.preprocessing = dataclasses.replace(preprocessing, size=size)
        self.dim: int = vit.embed_dim  # type: ignore[assignment]
        self.depth = len(self.attention)
        self.num_heads: int = self.attention[0].num_heads  # type: ignore[assignment]
        self.has_class_token: bool = vit.has_class_token  # type: ignore[assignment]
        self.levels = fitting(self.dim, self.depth, self.has_class_token) if levels is None else levels
        if not 0 <= self.levels <= self.depth:
            raise DualLoRAError(f"levels={levels}: backbone '{name}' has {self.depth} blocks; give 0 to {self.depth}")
        self.features = Levels.width(self.dim, self.levels, self.has_class_token)
        self._levels = Levels(vit, self.levels)
        self._fused: bool = self.attention[0].fused_attn  # type: ignore[assignment]
        self.train(False)

    @property
    def attention(self) -> list[nn.Module]:
        """The attention module of each block: it has `qkv`, `proj`, `num_heads`, `scale`, `q_norm` and `k_norm`."""
        return [block.attn for block in self.vit.blocks]  # type: ignore[union-attr]

    def forward(self, images: Tensor, levels: bool = True) -> Tensor:
        """Features (b, D) of normalised images (b, 3, S, S), S = `preprocessing.size`.

        The first d are the class token after the final norm; without a class token, the mean of the patch tokens. The
        others, where there are `levels`, are described at `Levels`. A loss that reads the first d alone asks for no
        levels: gradients of zero would go back through each of them.

        Args:
            images: (b, 3, S, S).
            levels: whether the others are wanted; without, features are (b, d).

        Raises:
            DualLoRAError: images of another shape.
        """
        size = self.preprocessing.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise DualLoRAError(
                f"backbone '{self.name}' expects images of shape (batch, 3, {size}, {size}), got "
                f"{tuple(images.shape)}; resize them, or load the backbone with image_size="
            )
        prefer_plain_attention(self, images.device)
        self._levels.listen(levels)
        tokens: Tensor = self.vit.forward_features(images)  # type: ignore[operator]
        prefix: int = self.vit.num_prefix_tokens  # type: ignore[assignment]
        pooled = tokens[:, 0] if self.has_class_token else tokens[:, prefix:].mean(dim=1)
        # timm's final norm is `norm`, before pooling, or `fc_norm`, after it; the other one is an identity
        features: Tensor = self.vit.fc_norm(pooled)  # type: ignore[operator]
        return self._levels.take(features)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked: dropout in a frozen network would only add noise."""
        return super().train(False)


def prefer_plain_attention(backbone: Backbone, device: torch.device) -> None:
    """Choose between torch's fused attention and plain matrix products, by where and in what precision it will run.

    The fused kernel is best on accelerators and, in float32, on a processor too. In bfloat16 on a processor its
    backward pass is slower than that of plain products: 5 x at 65 tokens, 2 x at 197 and at 1025 (torch 2.13,
    AVX-512); where no gradient is asked for, it is the faster one there too. Both compute the same
    softmax(q k^T / sqrt(c)) v.
    """
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = next(backbone.vit.parameters()).dtype
    slow = device.type == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled()
    fused = backbone._fused and not slow
    for attention in backbone.attention:
        if attention.fused_attn != fused:
            attention.fused_attn = fused  # type: ignore[assignment]


def check_serves(vit: nn.Module, name: str) -> None:
    """Raise DualLoRAError, with the reason and what serves instead, unless `vit` is a plain vision transformer.

    Plain means timm's `VisionTransformer` with its own `Attention` in every block, so that attention is
    softmax(q k^T / sqrt(c)) v of the output of one module, `attn.qkv`. Elsewhere (Eva, BEiT, DINOv3) rotary or relative
    positions act between that module and the softmax, or `qkv.weight` is read without calling the module: there an
    adapter or the class token's attention would silently be wrong.
    """
    import_timm()
    from timm.models.vision_transformer import Attention, VisionTransformer

    def refuse(reason: str) -> DualLoRAError:
        return DualLoRAError(f"backbone '{name}' ({type(vit).__name__}) cannot be used: {reason}. {SERVING}")

    if not isinstance(vit, VisionTransformer):
        raise refuse("it is no plain vision transformer with a fused `attn.qkv` linear")
    for i, block in enumerate(vit.blocks):
        attention = getattr(block, "attn", None)
        qkv = getattr(attention, "qkv", None)
        if not isinstance(attention, Attention) or not isinstance(qkv, nn.Linear):
            raise refuse(f"block {i} has no standard attention with a fused qkv linear")
        if (qkv.in_features, qkv.out_features) != (vit.embed_dim, 3 * vit.embed_dim):
            raise refuse(f"qkv of block {i} maps {qkv.in_features} to {qkv.out_features}, not d to 3 d")


def remove_head(vit: nn.Module) -> None:
    """Take off the classifier and attention pooling, in place: only the tokens are used."""
    vit.reset_classifier(0)  # type: ignore[operator]
    if getattr(vit, "attn_pool", None) is not None:
        vit.attn_pool = None  # type: ignore[assignment]
        vit.global_pool = "token" if vit.has_class_token else "avg"  # type: ignore[assignment]
    vit.pool_include_prefix = False  # type: ignore[assignment]


def check_image_size(vit: nn.Module, size: int, name: str) -> None:
    """Raise DualLoRAError unless `size` is a positive multiple of the patch size."""
    patch: int = vit.patch_embed.feat_ratio()  # type: ignore[union-attr, operator]
    if size < patch or size % patch:
        near = max(round(size / patch), 1) * patch
        raise DualLoRAError(
            f"image size {size} does not fit backbone '{name}', whose patches are {patch} pixels wide; "
            f"take a multiple of {patch}, for example {near}"
        )


def set_image_size(vit: nn.Module, size: int, name: str) -> None:
    """Fit the grid and the position embedding to images of `size` pixels, in place.

    Raises:
        DualLoRAError: see `check_image_size`.
    """
    check_image_size(vit, size, name)
    if vit.patch_embed.img_size != (size, size):  # type: ignore[union-attr]
        vit.set_input_size(img_size=(size, size))  # type: ignore[operator]
