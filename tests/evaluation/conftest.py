"""Made-up runs for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from duallora.evaluation.results import RunResults

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are imported one by one, so a shared helper needs a path


@pytest.fixture
def make_run() -> Callable[..., RunResults]:
    from made_up_runs import make_run

    return make_run


@pytest.fixture
def write_image() -> Callable[[Path], None]:
    """Writes a small image."""

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 60)).save(path)

    return write
