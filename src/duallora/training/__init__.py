"""The one training loop."""

from __future__ import annotations
