"""Geometry of the line chart; the template draws it as SVG, with colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from duallora.report.summary import Figure

MARKERS = (  # around (0, 0); one shape per method, so that colour is never the only difference
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z",
    "M-3.6-3.6H3.6V3.6H-3.6Z",
    "M0-4.8L4.6 3.4H-4.6Z",
    "M0-5L5 0L0 5L-5 0Z",
    "M0 4.8L4.6-3.4H-4.6Z",
    "M-5-1.6H-1.6V-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5Z",
    "M0-5L4.8-1.5L2.9 4.1H-2.9L-4.8-1.5Z",
    "M-4.6-2.6L0-5L4.6-2.6V2.6L0 5L-4.6 2.6Z",
)


@dataclass(frozen=True)
class Point:
    """A measured point: where it is drawn and what it says."""

    x: float
    y: float
    step: int
    figure: Figure


@dataclass(frozen=True)
class Line:
    """One method: its points, the path through them, and the band of one deviation around it ("" without one)."""

    label: str
    index: int
    points: tuple[Point, ...]
    path: str
    band: str


@dataclass(frozen=True)
class Curves:
    """A line chart of accuracy over tasks, in pixels at its natural size."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    y_ticks: tuple[tuple[float, int], ...]
    x_ticks: tuple[tuple[float, int], ...]
    lines: tuple[Line, ...]


def curves(named: Sequence[tuple[str, int, Sequence[Figure | None]]], width: int, height: int) -> Curves:
    """Lay out one line per method; values are shares, gaps are where nothing was measured.

    Args:
        named: label, index of colour and marker, and curve of each method.
        width: of the whole chart, pixels.
        height: of the whole chart, pixels.
    """
    left, right, top, bottom = 46, width - 16, 14, height - 44
    steps = max(len(curve) for _, _, curve in named)
    low, high, gap = _percent_range([figure for *_, curve in named for figure in curve if figure])

    def x(step: int) -> float:
        inner = 14  # keeps markers off the axis
        share = 0.5 if steps == 1 else step / (steps - 1)
        return round(left + inner + share * (right - left - 2 * inner), 1)

    def y(value: float) -> float:
        return round(bottom - (100 * value - low) / (high - low) * (bottom - top), 1)

    lines = []
    for label, index, curve in named:
        points = tuple(Point(x(i), y(f.mean), i + 1, f) for i, f in enumerate(curve) if f is not None)
        spread = [(p.x, y(p.figure.mean + d), y(p.figure.mean - d)) for p in points if (d := p.figure.deviation or 0.0)]
        path = "M" + "L".join(f"{p.x} {p.y}" for p in points) if len(points) > 1 else ""
        rim = [(px, upper) for px, upper, _ in spread] + [(px, lower) for px, _, lower in reversed(spread)]
        band = "M" + "L".join(f"{px} {py}" for px, py in rim) + "Z" if len(spread) > 1 else ""
        lines.append(Line(label, index, points, path, band))
    every = max(1, math.ceil(steps / ((right - left) / 34)))
    return Curves(
        width,
        height,
        left,
        right,
        top,
        bottom,
        y_ticks=tuple((y(value / 100), value) for value in range(low, high + 1, gap)),
        x_ticks=tuple((x(i), i + 1) for i in range(steps) if i % every == 0),
        lines=tuple(lines),
    )


def _percent_range(figures: Sequence[Figure]) -> tuple[int, int, int]:
    """Lowest and highest grid line in percent and the distance of grid lines, with room for the bands."""
    lows = [100 * (figure.mean - (figure.deviation or 0.0)) for figure in figures] or [0.0]
    highs = [100 * (figure.mean + (figure.deviation or 0.0)) for figure in figures] or [100.0]
    low = max(0, math.floor((min(lows) - 1) / 10) * 10)
    high = min(100, math.ceil((max(highs) + 1) / 10) * 10)
    if high - low < 20:
        low, high = max(0, high - 20), max(20, high)
    gap = 20 if high - low > 60 else 10 if high - low > 30 else 5
    return low - low % gap, min(100, high + (-high) % gap), gap
