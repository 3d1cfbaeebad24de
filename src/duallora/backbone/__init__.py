"""The frozen vision transformer: any plain timm ViT by name, or the small one that comes with the package."""

from __future__ import annotations

from duallora.backbone.frozen import Backbone
from duallora.backbone.load import load_backbone

__all__ = ["Backbone", "load_backbone"]
