"""Numbers can be read on every shade, lines on every background."""

from __future__ import annotations

import pytest

from duallora.report import palette


@pytest.mark.parametrize("anchors", [palette.LIGHT_RAMP, palette.DARK_RAMP])
def test_ink_is_readable_on_every_level(anchors: tuple[str, ...]) -> None:
    pairs = palette.ramp(anchors)
    assert len(pairs) == palette.LEVELS + 1
    assert min(palette.contrast(background, ink) for background, ink in pairs) >= 4.5
    assert pairs[0][0] == anchors[0]
    assert pairs[-1][0] == anchors[-1]


@pytest.mark.parametrize("anchors", [palette.LIGHT_RAMP, palette.DARK_RAMP])
def test_ramp_is_monotonous(anchors: tuple[str, ...]) -> None:
    against = [palette.contrast(background, anchors[0]) for background, _ in palette.ramp(anchors)]
    assert against == sorted(against)


@pytest.mark.parametrize(("hues", "card"), [(palette.LIGHT_SERIES, "#ffffff"), (palette.DARK_SERIES, "#161a20")])
def test_lines_stand_out(hues: tuple[str, ...], card: str) -> None:
    assert len(set(hues)) == len(hues) == 8
    assert min(palette.contrast(hue, card) for hue in hues) >= 4.5


def test_levels() -> None:
    assert [palette.level_of(share) for share in (-1, 0, 0.5, 1, 2)] == [0, 0, 10, 20, 20]
