"""`load_backbone`: a frozen vision transformer by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from duallora.backbone import bundled
from duallora.backbone.frozen import SERVING, Backbone, check_image_size, check_serves
from duallora.backbone.weights_file import load_weights
from duallora.compat import import_timm
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError

__all__ = ["Backbone", "load_backbone"]


def load_backbone(
    name: str = bundled.NAME,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    levels: int | None = 0,
    normalise: bool = True,
) -> Backbone:
    """A frozen vision transformer, in evaluation mode, with its own preprocessing and the sha256 of its weights.

    Args:
        name: "bundled", the name of a plain timm vision transformer, with or without the tag of its weights
            ("vit_base_patch16_224.augreg_in21k"), or "hf-hub:OWNER/MODEL" for a timm model of the Hugging Face hub.
        weights: a .safetensors, .pth or .pt file to take the weights from, instead of the pre-trained ones.
        pretrained: False leaves the weights random (drawn from torch's global generator).
        image_size: pixels per side; the position embedding is resampled. Default: the size the network was made for.
        levels: of how many of the last blocks the features take the class token and the mean patch token, beside the
            final feature; None takes as many as give up to 2,304 features.
        normalise: False gives the network values in [0, 1] whatever mean and deviation its weights were trained with,
            as some published code does.

    Raises:
        DualLoRAError: unknown name (with the nearest ones), a network without fused `attn.qkv`, weights that cannot be
            fetched, read or do not fit, or an image size that its patches do not divide.

    >>> backbone = load_backbone("test_vit", pretrained=False, image_size=64)
    >>> backbone.dim, backbone.depth, backbone.preprocessing.size
    (64, 6, 64)
    """
    replaced = pretrained or weights is not None
    with torch.random.fork_rng(devices=[], enabled=replaced):  # random weights that do not stay cost no random numbers
        if name == bundled.NAME:
            card = bundled.read_card()
            vit = bundled.load_bundled() if pretrained and weights is None else bundled.build(card["architecture"])
            preprocessing = Preprocessing.from_json(card["preprocessing"])
        else:
            _check_name(name)
            vit = _create(name, pretrained=False)
            check_serves(vit, name)
            preprocessing = _timm_preprocessing(vit, name)
        if image_size is not None:
            check_image_size(vit, image_size, name)
        if weights is not None:
            load_weights(vit, weights, name)
        elif pretrained and name != bundled.NAME:  # last, when everything else is known to be right
            vit = _fetch(name)
            if ":" not in name and "." not in name:  # timm may choose another default one day
                name = f"{name}.{vit.pretrained_cfg['tag']}"  # type: ignore[index]
    return Backbone(vit, name, preprocessing if normalise else preprocessing.unnormalised(), image_size, levels)


def _check_name(name: str) -> None:
    """Raise DualLoRAError unless timm knows `name`."""
    timm = import_timm()
    source, colon, rest = name.partition(":")
    if colon and source in {"hf-hub", "hf_hub", "local-dir"} and rest:
        return
    if colon or "/" in name or Path(name).suffix in {".safetensors", ".pth", ".pt"}:
        raise DualLoRAError(
            f"backbone '{name}' is no timm name. For a model of the Hugging Face hub write 'hf-hub:OWNER/MODEL'; "
            "for a file of weights give the architecture's name and weights=FILE"
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        plain = timm.list_models(module=["vision_transformer", "deit", "vision_transformer_hybrid"])
        near = difflib.get_close_matches(architecture, [bundled.NAME, *plain], n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise DualLoRAError(
            f"unknown backbone '{name}'; {meant}Known: 'bundled' and timm's plain vision transformers "
            "(timm.list_models('vit_*'))"
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", include_tags=True)]
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0.3)
        meant = f"did you mean '{architecture}.{near[0]}'? " if near else ""
        raise DualLoRAError(
            f"timm has no weights '{tag}' of backbone '{architecture}'; {meant}Known: {', '.join(tags)}"
        ) from error


def _fetch(name: str) -> nn.Module:
    """timm's network with its pre-trained weights."""
    if ":" not in name and not import_timm().is_model_pretrained(name):
        raise DualLoRAError(
            f"timm has no pre-trained weights for backbone '{name}'; give weights=FILE, or pretrained=False for random "
            "ones"
        )
    return _create(name, pretrained=True)


def _create(name: str, pretrained: bool) -> nn.Module:
    """timm's network without classifier; whatever the hub does to us becomes one message."""
    timm = import_timm()
    try:
        vit: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
        return vit
    except Exception as error:  # each layer below (hub, HTTP library, files, timm) raises its own kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if not pretrained and ":" not in name:
            raise DualLoRAError(f"timm cannot build backbone '{name}': {reason}. {SERVING}") from error
        raise DualLoRAError(
            f"the pre-trained weights of backbone '{name}' cannot be fetched: {reason} "
            "Where there is no network, fetch the file (.safetensors, .pth) elsewhere and give weights=FILE, in a "
            "shell --set backbone.weights=FILE, with the architecture's timm name, or use the backbone 'bundled', "
            "which needs no network"
        ) from error


def _timm_preprocessing(vit: nn.Module, name: str) -> Preprocessing:
    """timm's own data settings of a network, at the image size that the network has."""
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(vit)
    if config["input_size"][0] != 3:
        raise DualLoRAError(
            f"backbone '{name}' takes {config['input_size'][0]} channels; RGB networks serve. {SERVING}"
        )
    height, width = vit.patch_embed.img_size  # type: ignore[union-attr, misc]
    if height != width:
        raise DualLoRAError(f"backbone '{name}' takes {height} x {width} images; only square ones are made. {SERVING}")
    interpolation = config["interpolation"] if config["interpolation"] in {"bilinear", "bicubic"} else "bicubic"
    return Preprocessing(height, config["mean"], config["std"], interpolation, config["crop_pct"])
