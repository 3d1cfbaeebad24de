"""What many tests share: a tiny random backbone and small streams of coloured images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from duallora.backbone import Backbone
from duallora.backbone.bundled import build
from duallora.data import ImageSet
from duallora.data.imageset import Split
from duallora.data.transforms import Preprocessing
from duallora.stream import TaskStream


def make_backbone(
    *, class_token: bool = True, depth: int = 2, dim: int = 32, seed: int = 0, levels: int = 0, **more: object
) -> Backbone:
    """A random plain ViT for 16 px: 4 patch tokens of width `dim`; `more` goes to timm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {
            "img_size": 16,
            "patch_size": 8,
            "embed_dim": dim,
            "depth": depth,
            "num_heads": 2,
            "class_token": class_token,
            **more,
        }
        vit = build(shape | {"global_pool": "token" if class_token else "avg"})
        for parameter in vit.parameters():  # timm starts near the identity: make the blocks matter
            if parameter.ndim == 2:
                parameter.data.normal_(std=0.15)
    return Backbone(vit, "tiny", Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), levels=levels)


def make_images(classes: int, per_class: int, *, seed: int = 0, names: str = "c", size: int = 16) -> ImageSet:
    """Noisy images, each class around a random pattern of its own."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 3, size, size, generator=torch.Generator().manual_seed(seed // 1000))
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 3, size, size, generator=g) * 0.15
    pixels = ((patterns[labels] + noise).clamp(0, 1) * 255).to(torch.uint8)
    return ImageSet(tuple(f"{names}{i}" for i in range(classes)), labels, pixels)


def make_stream(increments: list[int], per_class: int = 24, seed: int = 0) -> TaskStream:
    """A class-incremental stream of such images."""
    n = sum(increments)
    split = Split(make_images(n, per_class, seed=seed * 1000 + 1), make_images(n, 10, seed=seed * 1000 + 2))
    return TaskStream.class_incremental(split, increments)


@pytest.fixture
def backbone() -> Backbone:
    """A tiny backbone."""
    return make_backbone()


@pytest.fixture
def backbones() -> Callable[..., Backbone]:
    """The maker of tiny backbones."""
    return make_backbone


@pytest.fixture
def images() -> Callable[..., ImageSet]:
    """The maker of image sets."""
    return make_images


@pytest.fixture
def streams() -> Callable[..., TaskStream]:
    """The maker of streams."""
    return make_stream
