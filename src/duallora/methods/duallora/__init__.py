"""DualLoRA: orthogonal adapter, residual adapter, dynamic memory (Chen et al., arXiv 2411.00623)."""

from __future__ import annotations

from duallora.methods.duallora.config import DualLoRAConfig

__all__ = ["DualLoRAConfig"]
