"""The backbone that comes with the package: a small plain ViT; a JSON file beside it says what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from torch import nn

from duallora.compat import import_timm
from duallora.errors import DualLoRAError

NAME = "bundled"
WEIGHTS, CARD, MODEL_CARD = "backbone.safetensors", "backbone.json", "MODEL_CARD.md"


def bundled_folder() -> Traversable:
    """Where the package keeps `backbone.safetensors`, `backbone.json` and `MODEL_CARD.md`."""
    return resources.files("duallora.backbone") / "weights"


def read_card(folder: Traversable | None = None) -> dict[str, Any]:
    """What is recorded of the bundled backbone: architecture, preprocessing, sha256, figures, recipe.

    Args:
        folder: another place than the package's own.

    Raises:
        DualLoRAError: the file is absent or damaged.
    """
    folder = bundled_folder() if folder is None else folder
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return {**card, "architecture": dict(card["architecture"]), "preprocessing": dict(card["preprocessing"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(f"{CARD} cannot be read ({type(error).__name__})") from error


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """A randomly initialised timm `VisionTransformer` without classifier, of the given arguments (`img_size`, ...)."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    vit: nn.Module = VisionTransformer(**architecture, num_classes=0)
    return vit


def load_bundled(folder: Traversable | None = None) -> nn.Module:
    """The bundled network with its trained weights, float32.

    Args:
        folder: another place than the package's own.

    Raises:
        DualLoRAError: a file is absent, or is not the one that `backbone.json` describes.
    """
    from safetensors.torch import load

    folder = bundled_folder() if folder is None else folder
    card = read_card(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise _broken(f"{WEIGHTS} cannot be read ({type(error).__name__})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.get("sha256"):
        raise _broken(f"{WEIGHTS} has sha256 {found}, {CARD} says {card.get('sha256')}")
    vit = build(card["architecture"])
    vit.load_state_dict(load(data))
    return vit


def _broken(reason: str) -> DualLoRAError:
    return DualLoRAError(
        f"the bundled backbone of this installation is incomplete: {reason}. Reinstall it: "
        "pip install --force-reinstall --no-deps duallora"
    )
