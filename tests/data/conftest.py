from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from duallora.data import ImageSet, Preprocessing

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a real image below tmp_path: write("cat/1.png", (255, 0, 0), size=(8, 8))."""

    def writer(name: str, colour: object = (200, 30, 60), mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
        return path

    return writer


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture
def noise() -> ImageSet:
    """23 different images of 3 classes in memory, 16 x 16."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (23, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return ImageSet(("a", "b", "c"), torch.arange(23) % 3, pixels)
