from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from convaudit.reports import rasters


def decode(payload):
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGBA"))


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 20, 30), (2, 20, 30)])
def test_small_images_survive_exactly(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kind, payload = rasters.encode_image(pixels)
    shown = decode(payload)
    assert kind in ("image/png", "image/webp")
    assert shown.shape[:2] == (20, 30)
    for channel in range(3):
        np.testing.assert_array_equal(shown[..., channel], pixels[channel if shape[0] == 3 else 0])


def test_large_images_are_small_and_alike():
    y, x = np.mgrid[0:96, 0:64]
    pixels = np.stack([2 * y, 3 * x, 255 - 2 * y]).astype(np.uint8)
    kind, payload = rasters.encode_image(pixels)
    assert kind == "image/webp"
    assert len(payload) < 3_000
    assert np.abs(np.moveaxis(decode(payload)[..., :3], -1, 0).astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("signed", [True, False])
def test_heatmap_is_see_through_where_it_is_weak(signed):
    heat = np.array([[0.0, 0.25, 1.0], [0.0, 0.0, -1.0]])
    colour = decode(rasters.encode_heatmap(heat, signed=signed))
    alpha = colour[..., 3].astype(int)
    assert alpha[0, 0] == 0
    assert 0 < alpha[0, 1] < alpha[0, 2]
    assert alpha[1, 2] == (alpha[0, 2] if signed else 0)
    if signed:
        assert colour[0, 2, 0] > colour[0, 2, 2]
        assert colour[1, 2, 0] < colour[1, 2, 2]


def test_a_scale_that_starts_elsewhere_is_see_through_there():
    colour = decode(rasters.encode_heatmap(np.array([[5.0, 6.0, 7.0]]), floor=5.0))
    assert colour[0, 0, 3] == 0 < colour[0, 1, 3] < colour[0, 2, 3]


def test_a_few_spikes_do_not_hide_the_rest():
    heat = np.full((40, 40), 0.5)
    heat[0, :4] = 1e6
    assert rasters.strongest(heat) == 0.5
    heat[0, :9] = 1e6
    assert rasters.strongest(heat) == 1e6
    assert rasters.strongest(np.array([0.1, 0.2, -0.7])) == 0.7


def test_strongest_is_the_largest_where_almost_all_is_zero():
    heat = np.zeros((50, 50))
    heat[3, 4] = 2.5
    assert rasters.strongest(heat) == 2.5


def test_strengths_are_told_apart_in_steps():
    shown = decode(rasters.encode_heatmap(np.linspace(0, 1, 64)))
    assert len({tuple(pixel) for pixel in shown[0]}) == rasters.HEAT_LEVELS + 1
    assert (np.diff(shown[0, :, 3].astype(int)) >= 0).all()


def test_a_large_map_is_shown_as_means():
    heat = np.zeros((256, 128))
    heat[64:68, 32:36] = [[0, 8, 0, 8]] * 4
    shown = decode(rasters.encode_heatmap(heat))
    assert shown.shape == (64, 64, 4)
    assert shown[16, 16, 3] == shown[..., 3].max()
    assert (shown[..., 3] > 0).sum() == 2  # four pixels up and down, but two across, are one


def test_colours_are_ordered_in_lightness():
    """So that they read in grey, and without colour vision."""
    light = np.array([0.2126, 0.7152, 0.0722])
    rising = decode(rasters.encode_heatmap(np.linspace(0.05, 1, 20)))[0, :, :3] @ light
    assert (np.diff(rising) > -1).all()
    falling = decode(rasters.encode_heatmap(np.linspace(0.05, 1, 20), signed=True))[0, :, :3] @ light
    assert (np.diff(falling) < 1).all()


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e12])
def test_heatmap_does_not_depend_on_its_unit(factor):
    heat = np.random.default_rng(1).normal(size=(5, 7))
    assert rasters.encode_heatmap(heat * factor) == rasters.encode_heatmap(heat)


def test_empty_heatmap_is_fully_see_through():
    for heat in (np.zeros((3, 4)), np.full((3, 4), math.nan)):
        assert decode(rasters.encode_heatmap(heat))[..., 3].max() == 0


def test_heatmap_of_a_signal_is_one_row():
    assert decode(rasters.encode_heatmap(np.arange(9.0))).shape == (1, 9, 4)


def test_matrix_has_a_pixel_per_cell():
    pixels = decode(rasters.encode_matrix(np.array([[0.0, 1.0, 0.5], [math.nan, 0.2, 0.3]])))
    assert pixels.shape == (2, 3, 4)
    assert pixels[1, 0, 3] == 0
    lightness = pixels[0, :, :3].astype(int).sum(-1)
    assert len(set(lightness)) == 3


def test_raster_dots_are_where_the_points_are():
    pixels = decode(rasters.encode_dots(np.array([[3.0, 5.0], [500.0, -9.0]]), (20, 10), (1, 2, 3), radius=0))
    assert pixels.shape == (10, 20, 4)
    assert sorted(map(tuple, np.argwhere(pixels[..., 3] > 0))) == [(0, 19), (5, 3)]
    assert tuple(pixels[5, 3, :3]) == (1, 2, 3)


def test_same_array_same_bytes():
    pixels = np.random.default_rng(2).integers(0, 256, (3, 64, 64), np.uint8)
    assert rasters.encode_image(pixels) == rasters.encode_image(pixels.copy())
