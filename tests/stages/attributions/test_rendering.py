"""Heatmaps at the resolution of the input: every cell where its receptive field is centred."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from convaudit.stages.attributions.rendering import alignment_caveat, render, upsampled
from convaudit.stages.errors import StageError


def layer_notes(stride, centre, layer="layer4"):
    return {"rendering": {"kind": "layer", "geometry": {layer: {"stride": stride, "centre": centre}}}}


def one_hot(shape, place):
    heatmap = np.zeros((1, *shape), np.float32)
    heatmap[(0, *place)] = 1
    return heatmap


def neighbours(position, cells, stride, centre):
    """The two cells around a position and how near it is to each; one of them alone beyond the outermost centres."""
    if position <= centre:
        return [(0, 1.0)]
    if position >= centre + (cells - 1) * stride:
        return [(cells - 1, 1.0)]
    low = math.floor((position - centre) / stride)
    part = (position - centre - low * stride) / stride
    return [(low, 1 - part), (min(low + 1, cells - 1), part)]


def slow(heatmap, space, stride, centre):
    """Every position by itself, from its surrounding cells."""
    found = np.zeros((len(heatmap), *space))
    for target in range(len(heatmap)):
        for position in np.ndindex(*space):
            for corner in np.ndindex(*(2,) * len(space)):
                near = [
                    neighbours(position[axis], heatmap.shape[axis + 1], stride[axis], centre[axis])
                    for axis in range(len(space))
                ]
                if any(side >= len(pair) for side, pair in zip(corner, near, strict=True)):
                    continue
                cells = tuple(pair[side][0] for side, pair in zip(corner, near, strict=True))
                weight = math.prod(pair[side][1] for side, pair in zip(corner, near, strict=True))
                found[(target, *position)] += weight * float(heatmap[(target, *cells)])
    return found


@pytest.mark.parametrize(
    ("cells", "space", "stride", "centre"),
    [
        ((3, 5), (17, 31), (6.0, 7.0), (2.0, -1.5)),
        ((1, 4), (9, 30), (9.0, 8.0), (4.0, 3.5)),
        ((6,), (40,), (7.0,), (3.0,)),
        ((4,), (11,), (2.5,), (-3.0,)),
        ((3, 2), (5, 6), (32.0, 1.0), (0.0, 2.0)),
    ],
)
def test_equals_a_loop_over_positions(cells, space, stride, centre):
    heatmap = np.random.default_rng(3).normal(size=(2, *cells))
    found = upsampled(heatmap, space, stride, centre)
    np.testing.assert_allclose(found, slow(heatmap, space, stride, centre), rtol=1e-12, atol=1e-12)
    assert found.dtype == np.float64


@pytest.mark.parametrize("place", [(0, 0), (2, 5), (6, 6), (0, 3)])
def test_a_single_cell_peaks_at_its_receptive_field_centre(place):
    """The last layer of a ResNet at 224: stride 32, centre of the first cell at pixel 0."""
    row = {"layer4/heatmap": one_hot((7, 7), place)}
    found = render(row, layer_notes([32.0, 32.0], [0.0, 0.0]), (3, 224, 224))["layer4/heatmap"][0]
    assert np.unravel_index(found.argmax(), found.shape) == tuple(32 * part for part in place)
    assert found.max() == 1


def test_resizing_to_the_image_would_be_half_a_stride_off():
    """Why geometry is noted at all: without it the first cell is taken to lie at (32 - 1) / 2."""
    rows = {"layer4/heatmap": np.arange(7.0)[None]}
    known = render(rows, layer_notes([32.0], [0.0]), (1, 224))["layer4/heatmap"][0]
    naive = render(rows, {"rendering": {"kind": "layer"}}, (1, 224))["layer4/heatmap"][0]
    inner = np.arange(16, 192)
    np.testing.assert_allclose((known - naive)[inner] * 32, 15.5, rtol=1e-9)


def test_without_geometry_it_is_resized_to_the_image_as_everybody_does():
    torch = pytest.importorskip("torch")
    heatmap = np.random.default_rng(0).normal(size=(2, 5, 3))
    found = render({"x/heatmap": heatmap}, {"rendering": {"kind": "layer"}}, (3, 20, 27))["x/heatmap"]
    peer = torch.nn.functional.interpolate(torch.tensor(heatmap)[None], size=(20, 27), mode="bilinear")[0]
    np.testing.assert_allclose(found, peer.numpy(), rtol=1e-9, atol=1e-12)


def test_between_two_centres_it_is_linear_and_beyond_them_constant():
    found = upsampled(np.array([[2.0, 6.0]]), (16,), (4.0,), (5.0,))[0]
    np.testing.assert_allclose(found[5:10], [2, 3, 4, 5, 6])
    assert (found[:5] == 2).all()
    assert (found[9:] == 6).all()


def test_constant_stays_constant_and_missing_stays_missing():
    heatmap = np.stack([np.full((3, 4), 7.5), np.full((3, 4), np.nan)])
    found = upsampled(heatmap, (13, 22), (5.0, 6.0), (1.0, -2.0))
    np.testing.assert_allclose(found[0], 7.5, rtol=1e-12)
    assert np.isnan(found[1]).all()


def test_axes_are_not_mixed_up():
    heatmap = np.random.default_rng(1).normal(size=(2, 3, 5))
    turned = upsampled(heatmap.swapaxes(1, 2), (30, 12), (6.0, 4.0), (2.0, 1.0)).swapaxes(1, 2)
    np.testing.assert_allclose(upsampled(heatmap, (12, 30), (4.0, 6.0), (1.0, 2.0)), turned)


@pytest.mark.parametrize("space", [(4, 6), (9,)])
def test_pixels_are_what_was_stored_times_their_scale(space):
    shape = np.random.default_rng(2).uniform(-1, 1, (2, *space)).astype(np.float16)
    row = {"heatmap": shape, "scale": np.array([3e-9, 2.0], np.float32), "target": np.array([1, 4])}
    found = render(row, {"rendering": {"kind": "pixels"}}, (3, *space))
    assert list(found) == ["heatmap"]
    np.testing.assert_allclose(found["heatmap"][0], shape[0].astype(float) * np.float64(np.float32(3e-9)))
    np.testing.assert_allclose(found["heatmap"][1], shape[1].astype(float) * 2)


def test_a_map_of_pixels_below_a_layer_has_its_own_scale():
    row = {"a/heatmap": np.ones((1, 3)), "a/scale": np.array([2.0]), "b/heatmap": np.ones((1, 3)), "b/scale": [5.0]}
    found = render(row, {"rendering": {"kind": "pixels"}}, (1, 3))
    assert {path: heatmap[0, 0] for path, heatmap in found.items()} == {"a/heatmap": 2, "b/heatmap": 5}


def test_an_unknown_alignment_is_told_with_its_reason():
    notes = layer_notes([8.0], [3.5], layer="known")
    notes["rendering"]["unaligned"] = {"pooled": "its two branches disagree"}
    assert alignment_caveat("known/heatmap", notes) == ""
    assert alignment_caveat("pooled/heatmap", notes) == "alignment unknown: its two branches disagree"
    assert alignment_caveat("other/heatmap", notes).startswith("alignment unknown: the geometry")
    assert alignment_caveat("heatmap", {"rendering": {"kind": "pixels"}}) == ""


def test_windows_and_masks_come_as_one_map_per_target():
    scores = {
        "score": np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]]),
        "base": np.array([0.9, 0.1]),
        "against": np.array([-1, -1]),
        "target": np.array([0, 1]),
    }
    notes = {"rendering": {"kind": "windows", "start": [[0, 2, 4]], "end": [[3, 5, 6]]}}
    found = render(scores, notes, (1, 6))
    np.testing.assert_allclose(found["heatmap"][0], [0.7, 0.7, 0.35, 0, 0.25, 0.5])
    assert found["heatmap"].shape == (2, 6)
    masks = {"kind": "masks", "grid": 2, "keep": 0.5, "interpolation": "reflect", "normalisation": "coverage"}
    same = {**scores, "score": np.full((3, 2), 0.25), "used": np.array(3), "mask_seed": np.array(5)}
    found = render(same, {"rendering": masks}, (1, 6))["heatmap"]
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found[np.isfinite(found)], 0.25)


@pytest.mark.parametrize(
    ("row", "notes", "told"),
    [
        ({}, {}, "expected notes"),
        ({}, {"rendering": {"kind": "voxels"}}, "voxels"),
        ({"target": np.zeros(1)}, {"rendering": {"kind": "pixels"}}, "expected an array called heatmap"),
        ({"heatmap": np.ones((1, 3))}, {"rendering": {"kind": "pixels"}}, "expected its scale in scale"),
        ({"heatmap": np.ones((1, 4)), "scale": np.ones(1)}, {"rendering": {"kind": "pixels"}}, "input's shape"),
        ({"layer4/heatmap": np.ones((1, 2))}, layer_notes([0.0], [0.0]), "a stride above 0"),
        ({"layer4/heatmap": np.ones((1, 2))}, layer_notes([4.0, 4.0], [0.0, 0.0]), "map of shape"),
    ],
)
def test_what_cannot_be_rendered_is_refused(row, notes, told):
    with pytest.raises(StageError, match=told):
        render(row, notes, (1, 3))


def test_it_needs_no_torch():
    code = "import sys, convaudit.stages.attributions.rendering; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
