from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from convaudit.reports import figures


def decode(payload):
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGBA"))


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
    plot = figures.stacked_bars({"a": [2, 0], "b": [2, 1]}, [0, 0.5, 1], "x", "y", "alt", ("wrong", "right"))
    wrong, right = plot.marks
    height = plot.bottom - plot.top
    tops = [float(part.split("V")[1].split("H")[0]) for part in right.d.split("M")[1:]]
    assert wrong.d.count("M") == 1
    assert tops[0] == pytest.approx(plot.top, abs=0.1)
    assert tops[1] == pytest.approx(plot.bottom - height / 4, abs=0.1)


def test_empty_histogram_draws_nothing():
    plot = figures.stacked_bars({"a": [0, 0]}, [0, 1, 2], "x", "y", "alt", ("right",))
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


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 20, 30), (2, 20, 30)])
def test_small_images_survive_exactly(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kind, payload = figures.encode_image(pixels)
    shown = decode(payload)
    assert kind in ("image/png", "image/webp")
    assert shown.shape[:2] == (20, 30)
    for channel in range(3):
        np.testing.assert_array_equal(shown[..., channel], pixels[channel if shape[0] == 3 else 0])


def test_large_images_are_small_and_alike():
    y, x = np.mgrid[0:96, 0:64]
    pixels = np.stack([2 * y, 3 * x, 255 - 2 * y]).astype(np.uint8)
    kind, payload = figures.encode_image(pixels)
    assert kind == "image/webp"
    assert len(payload) < 3_000
    assert np.abs(np.moveaxis(decode(payload)[..., :3], -1, 0).astype(int) - pixels).mean() < 6


def test_heatmap_is_see_through_where_it_is_weak():
    heat = np.array([[0.0, 0.25, 1.0], [0.0, 0.0, -1.0]])
    alpha, colour = decode(figures.encode_heatmap(heat))[..., 3].astype(int), decode(figures.encode_heatmap(heat))
    assert alpha[0, 0] == 0
    assert 0 < alpha[0, 1] < alpha[0, 2]
    assert alpha[1, 2] == alpha[0, 2]
    assert tuple(colour[0, 2, :3]) != tuple(colour[1, 2, :3])


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e12])
def test_heatmap_does_not_depend_on_its_unit(factor):
    heat = np.random.default_rng(1).normal(size=(5, 7))
    assert figures.encode_heatmap(heat * factor) == figures.encode_heatmap(heat)


def test_empty_heatmap_is_fully_see_through():
    for heat in (np.zeros((3, 4)), np.full((3, 4), math.nan)):
        assert decode(figures.encode_heatmap(heat))[..., 3].max() == 0


def test_heatmap_of_a_signal_is_one_row():
    assert decode(figures.encode_heatmap(np.arange(9.0))).shape == (1, 9, 4)


def test_matrix_has_a_pixel_per_cell():
    pixels = decode(figures.encode_matrix(np.array([[0.0, 1.0, 0.5], [math.nan, 0.2, 0.3]])))
    assert pixels.shape == (2, 3, 4)
    assert pixels[1, 0, 3] == 0
    lightness = pixels[0, :, :3].astype(int).sum(-1)
    assert len(set(lightness)) == 3


def test_raster_dots_are_where_the_points_are():
    pixels = decode(figures.encode_dots(np.array([[3.0, 5.0], [500.0, -9.0]]), (20, 10), (1, 2, 3), radius=0))
    assert pixels.shape == (10, 20, 4)
    assert sorted(map(tuple, np.argwhere(pixels[..., 3] > 0))) == [(0, 19), (5, 3)]
    assert tuple(pixels[5, 3, :3]) == (1, 2, 3)


def test_same_array_same_bytes():
    pixels = np.random.default_rng(2).integers(0, 256, (3, 64, 64), np.uint8)
    assert figures.encode_image(pixels) == figures.encode_image(pixels.copy())
