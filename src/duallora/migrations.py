"""How models of earlier format versions become ones of today."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from duallora.methods.base import part
from duallora.methods.covariances import ClassCovariances
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.registry import get_method
from duallora.methods.spreads import ClassSpreads

Migration = Callable[[dict[str, Tensor], dict[str, Any]], tuple[dict[str, Tensor], dict[str, Any]]]


def _to_2(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 2, residuals of the class token asked all blocks, and their heads learned from labels as they are."""
    method = manifest.get("method", {})
    if _is_duallora(method):
        options = {"class_blocks": "all", "class_smoothing": 0.0} | method.get("options", {})
        manifest = manifest | {"method": method | {"options": options}}
    return tensors, manifest


def _to_3(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 3, each class's covariance of the final feature was kept whole, by methods without alignment too.

    And `ranpac` drew 2000 random features.
    """
    method = manifest.get("method", {})
    if method.get("name") == "ranpac":
        manifest = manifest | {"method": method | {"options": {"projection": 2000} | method.get("options", {})}}
    if (packed := tensors.get("read.covariances.packed")) is None:
        return tensors, manifest
    gaussians = ClassGaussians(tensors["read.gaussians.sums"].shape[1], _shrinkage(manifest))
    gaussians.load_state(part("read.gaussians", tensors))
    covariances = ClassCovariances(math.isqrt(2 * packed.shape[1]))  # d (d + 1) / 2 numbers a class
    covariances.load_state({"packed": packed})
    d, spreads = covariances.dim, ClassSpreads(gaussians.dim)
    spreads.basis, spreads.factors = torch.eye(gaussians.dim, d), torch.zeros(0, d - 1, d)  # nothing is left out
    if len(packed):
        spreads.extend((covariances.covariance(row) for row in range(len(packed))), gaussians)
    aligned = any(name.startswith("align.") for name in tensors)
    tensors = {k: v for k, v in tensors.items() if aligned or k != "read.covariances.packed"}
    return tensors | {f"read.spreads.{k}": v for k, v in spreads.state().items()}, manifest


def _to_4(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 4, nothing was kept of whole tasks: their Gaussians are put together from those of their classes.

    And passes took 256 images on whatever device, which nobody had chosen.
    """
    training = manifest.get("training", {})
    if training.get("evaluation_batch_size") == 256:
        manifest = manifest | {"training": training | {"evaluation_batch_size": None}}
    factors = tensors.get("read.spreads.factors")
    if factors is None or "tasks" not in get_method(manifest["method"]["name"]).readouts:
        return tensors, manifest
    gaussians = ClassGaussians(tensors["read.gaussians.sums"].shape[1], _shrinkage(manifest))
    gaussians.load_state(part("read.gaussians", tensors))
    spreads, tasks = ClassSpreads(gaussians.dim), ClassSpreads(gaussians.dim)
    spreads.load_state(part("read.spreads", tensors))
    tasks.basis, tasks.factors = spreads.basis, factors[:0]
    if len(factors):
        owner = tensors["read.rows.tasks"]
        tasks.extend(spreads.whole(gaussians, owner), gaussians.merged(owner))
    return tensors | {f"read.tasks.{k}": v for k, v in tasks.state().items() if k != "basis"}, manifest


def _to_5(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 5, DualLoRA's first session adapted the maps of every other task, in one stage with the rest."""
    method = manifest.get("method", {})
    options = method.get("options", {})
    if _is_duallora(method) and options.get("first_rate") is not None:
        maps = {"first_placement": options.get("placement", ["value"])}
        manifest = manifest | {"method": method | {"options": maps | options}}
    return tensors, manifest


def _to_6(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 6, residuals of the class token asked all blocks but the first third where nobody said otherwise."""
    method = manifest.get("method", {})
    if _is_duallora(method):
        options = {"class_blocks": "later"} | method.get("options", {})
        manifest = manifest | {"method": method | {"options": options}}
    return tensors, manifest


def _to_7(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 7, DualLoRA had a first session only where somebody asked for it."""
    method = manifest.get("method", {})
    if _is_duallora(method):
        manifest = manifest | {"method": method | {"options": {"first_rate": None} | method.get("options", {})}}
    return tensors, manifest


def _is_duallora(method: dict[str, Any]) -> bool:
    return str(method.get("name")).removesuffix("+align") == "duallora"


def _shrinkage(manifest: dict[str, Any]) -> float | str:
    """Of the Gaussians, as the model's options say."""
    chosen: float | str = manifest.get("method", {}).get("options", {}).get("shrinkage", "oas")
    return chosen


MIGRATIONS: dict[int, Migration] = {1: _to_2, 2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6, 6: _to_7}
"""From a format_version to the next one: tensors and manifest in, tensors and manifest out."""
