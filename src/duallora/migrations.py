"""How models of earlier format versions become ones of today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Migration = Callable[[dict[str, Tensor], dict[str, Any]], tuple[dict[str, Tensor], dict[str, Any]]]


def _to_2(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Before 2, residuals of the class token asked all blocks, and their heads learned from labels as they are."""
    method = manifest.get("method", {})
    if method.get("name") == "duallora":
        options = {"class_blocks": "all", "class_smoothing": 0.0} | method.get("options", {})
        manifest = manifest | {"method": method | {"options": options}}
    return tensors, manifest


MIGRATIONS: dict[int, Migration] = {1: _to_2}
"""From a format_version to the next one: tensors and manifest in, tensors and manifest out."""
