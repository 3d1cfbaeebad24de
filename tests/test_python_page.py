"""docs/python.md: what it shows is run, on images of noise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
FOLDERS = {"animals": ("cat", "dog"), "vehicles": ("car", "bus"), "plants": ("oak", "fern"), "held_out": ("cat", "bus")}


@pytest.mark.parametrize("block", BLOCKS, ids=["learner", "run"])
def test_the_page_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for folder, classes in FOLDERS.items():
        for name in classes:
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(
                    tmp_path / folder / name / f"{i}.png"
                )
    Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save("photo.jpg")
    exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    if "Learner" in block:
        assert said.startswith("animals ['cat', 'dog'] 6 ")
        assert "photo.jpg" in said
        assert "plants" in said.splitlines()[-1]
    else:
        assert (tmp_path / "runs" / "digits-slda" / "results.json").is_file()
