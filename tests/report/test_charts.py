"""Every point lies inside the chart, where its value says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.report.charts import curves
from duallora.report.summary import Figure

figures = st.none() | st.builds(Figure, st.floats(0, 1), st.none() | st.floats(0, 0.2))


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 60), data=st.data(), width=st.sampled_from([350, 700]))
def test_inside_and_in_order(steps: int, data: st.DataObject, width: int) -> None:
    values = st.lists(figures, min_size=steps, max_size=steps)
    named = [(f"m{i}", i, data.draw(values)) for i in range(data.draw(st.integers(1, 4)))]
    chart = curves(named, width, 300)
    ticks = dict((value, y) for y, value in chart.y_ticks)
    assert len(ticks) >= 3
    assert min(ticks) >= 0
    assert max(ticks) <= 100
    scale = (max(ticks) - min(ticks)) / (chart.bottom - chart.top)
    for line, (_, _, curve) in zip(chart.lines, named, strict=True):
        assert len(line.points) == sum(figure is not None for figure in curve)
        for point in line.points:
            assert chart.left < point.x < chart.right
            assert chart.top - 0.1 <= point.y <= chart.bottom + 0.1
            assert max(ticks) - (point.y - chart.top) * scale == pytest.approx(100 * point.figure.mean, abs=0.1)
        assert [point.x for point in line.points] == sorted(point.x for point in line.points)
    positions = [x for x, _ in chart.x_ticks]
    assert all(b - a > 20 for a, b in itertools.pairwise(positions)), "labels do not touch"


def test_a_single_point_has_no_path_and_a_deviation_has_a_band() -> None:
    chart = curves(
        [("last", 0, [None, Figure(0.5)]), ("seeds", 1, [Figure(0.5, 0.1), Figure(0.4, 0.1)])], width=700, height=300
    )
    assert chart.lines[0].path == ""
    assert chart.lines[0].band == ""
    assert chart.lines[1].path.startswith("M")
    assert chart.lines[1].band.endswith("Z")
