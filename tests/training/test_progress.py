"""Progress: plain lines where there is no terminal."""

from __future__ import annotations

import pytest

from duallora.training.progress import TaskProgress


def test_plain_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with TaskProgress("lora: task 1 training", 20, every=0.0) as bar:
        bar.advance(10, "epoch 1/2")
        bar.advance(10, "epoch 2/2")
    out, err = capsys.readouterr()
    assert out == ""
    assert "lora: task 1 training: 10/20 epoch 1/2" in err
    assert "images/s" in err
    assert "20 images in" in err


def test_nothing_when_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    with TaskProgress("x", 1, enabled=False) as bar:
        bar.advance(1)
    assert capsys.readouterr() == ("", "")
