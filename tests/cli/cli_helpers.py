"""What the tests of the command line share: tiny settings, coloured pictures, what a command left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "car": (30, 30, 200), "bus": (200, 200, 30)}
TINY = (  # an untrained network of six narrow blocks and four patches: what is tested is the command line
    "--set=backbone.pretrained=false",
    "--set=backbone.image_size=32",
    "--set=training.epochs=1",
    "--set=training.precision=float32",
)


@dataclass(frozen=True)
class Done:
    """What a command left: exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as JSON; fails where it holds anything else."""
        return json.loads(self.out)


Type = Callable[..., Done]


def picture(path: Path, colour: tuple[int, int, int], seed: int = 0) -> Path:
    """A noisy image of one colour."""
    pixels = np.random.default_rng(seed).normal(colour, 20, (24, 24, 3)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder, with the content of files."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
