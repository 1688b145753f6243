from __future__ import annotations

import math

import numpy as np
import pytest

from convaudit.reports import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "not measured"),
        (None, "not measured"),
        (math.inf, "infinite"),
        (0, "0"),
        (-0.0, "0"),
        (1234567, "1,234,567"),
        (0.81355, "0.8135"),
        (0.00001234, "1.23e-05"),
        (12.34567, "12.35"),
        (54321.7, "54,322"),
        (-0.0123, "-0.0123"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert figures.number(value) == text


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0, 7), (-3.2, 12.7), (0.001, 0.0042), (1, 123456)):
        ticks = figures.nice_ticks(low, high)
        assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
        assert 2 <= len(ticks) <= 7
        steps = np.diff(ticks)
        np.testing.assert_allclose(steps, steps[0])
        assert f"{steps[0]:e}"[0] in "125"
    assert figures.nice_ticks(2, 2) == [2]


def test_stacked_bars_keep_proportions():
    plot = figures.stacked_bars(
        {"a": np.array([2, 0]), "b": np.array([2, 1])}, np.array([0, 0.5, 1]), "x", "y", "alt", ("wrong", "right")
    )
    wrong, right = plot.marks
    height = plot.bottom - plot.top
    tops = [float(part.split("V")[1].split("H")[0]) for part in right.d.split("M")[1:]]
    assert wrong.d.count("M") == 1
    assert tops[0] == pytest.approx(plot.top, abs=0.1)
    assert tops[1] == pytest.approx(plot.bottom - height / 4, abs=0.1)


def test_empty_histogram_draws_nothing():
    plot = figures.stacked_bars({"a": np.zeros(2)}, np.arange(3), "x", "y", "alt", ("right",))
    assert plot.marks[0].d == ""


def test_lines_break_where_nothing_was_measured():
    plot = figures.lines({"loss": np.array([3.0, math.nan, 1.0, 0.5])}, "epoch", "loss", "alt", ("right",))
    assert plot.marks[0].d.count("M") == 2
    assert "nan" not in plot.marks[0].d


def test_long_signal_keeps_its_spike():
    signal = np.zeros((1, 5_000))
    signal[0, 1_234] = 9.0
    (path,) = figures.traces(signal, 120, 60)
    heights = [float(step.split(" ")[1]) for step in path[1:].split("L")]
    assert min(heights) == pytest.approx(3)
    assert len(path) < 5_000


def test_signal_without_a_finite_value_is_empty():
    assert figures.traces(np.full((2, 9), math.nan), 120, 60) == ("", "")


def test_dots_and_crosses_have_one_mark_per_point():
    points = np.array([[1.25, 2.0], [3.0, -0.01]])
    assert figures.dots(points) == "M1.2 2h0M3 0h0"
    assert figures.crosses(points).count("M") == 2
    assert figures.dots(np.empty((0, 2))) == ""
