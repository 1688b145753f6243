import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from convaudit.stages.attributions.masks import Masking, added_up, drawn, mask_values, render_masks, weights

SPACES = [(12, 9), (7, 23), (24,), (5,)]
INTERPOLATIONS = ["reflect", "clamp", "corners"]


def _place(pixel, cells, pixels, interpolation):
    """Coordinate of a pixel in units of cells, by the book."""
    if interpolation == "corners":
        return pixel * (cells - 1) / (pixels - 1)
    place = (pixel + 0.5) * cells / pixels - 0.5
    if interpolation == "clamp":
        return min(max(place, 0.0), cells - 1.0)
    if place < 0:
        return -place
    return 2 * (cells - 1) - place if place > cells - 1 else place


def _sample(grid, places):
    """Multilinear interpolation of a grid at one point."""
    total = 0.0
    for corner in np.ndindex(*[2] * grid.ndim):
        weight, where = 1.0, []
        for bit, place in zip(corner, places, strict=True):
            low = math.floor(place)
            weight *= place - low if bit else 1 - (place - low)
            where.append(min(low + bit, grid.shape[0] - 1))
        total += weight * grid[tuple(where)]
    return total


def _replica(grid, shifts, space, interpolation):
    """One mask, section 3.2 of the paper, pixel by pixel."""
    s = grid.shape[0]
    cells = [math.ceil(length / s) for length in space]
    out = np.zeros(space)
    for where in np.ndindex(*space):
        places = [
            _place(i + shift, s, (s + 1) * cell, interpolation)
            for i, shift, cell in zip(where, shifts, cells, strict=True)
        ]
        out[where] = _sample(grid, places)
    return out


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("s", [1, 3, 5])
def test_masks_are_those_of_the_paper(space, s, interpolation):
    masking = Masking(space, s, 0.4, interpolation)
    cells, shifts = drawn(masking, 11, 3, 4)
    masks = mask_values(masking, 11, 3, 4)
    assert masks.shape == (4, *space)
    for n in range(4):
        if s == 1:
            np.testing.assert_allclose(masks[n], cells[n].item())
            continue
        want = _replica(cells[n].astype(float), [int(shift[n]) for shift in shifts], space, interpolation)
        np.testing.assert_allclose(masks[n], want, atol=1e-12)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolation_is_that_of_the_library_it_is_named_after(interpolation):
    masking = Masking((12, 20), 5, 0.5, interpolation)
    grid = drawn(masking, 0, 0, 1)[0][0].astype(float)
    whole = weights(masking, 0) @ grid @ weights(masking, 1).T
    if interpolation == "reflect":
        # What skimage.transform.resize(order=1, mode="reflect", anti_aliasing=False) calls.
        want = ndimage.zoom(grid, (18 / 5, 24 / 5), order=1, mode="mirror", grid_mode=True)
    else:
        corners = interpolation == "corners"
        tensor = torch.from_numpy(grid)[None, None]
        want = F.interpolate(tensor, (18, 24), mode="bilinear", align_corners=corners)[0, 0].numpy()
    np.testing.assert_allclose(whole, want, atol=1e-12)


@pytest.mark.parametrize("space", SPACES[:3])
def test_masks_do_not_depend_on_which_others_are_drawn(space):
    masking = Masking(space, 3)
    whole = mask_values(masking, 5, 0, 40)
    pieces = [mask_values(masking, 5, a, b - a) for a, b in [(0, 1), (1, 17), (17, 40)]]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert not np.array_equal(whole, mask_values(masking, 6, 0, 40))


def test_cells_are_kept_with_the_chance_asked_and_shifts_are_uniform():
    masking = Masking((12, 20), 4, 0.3)
    cells, (y, x) = drawn(masking, 1, 0, 20000)
    share = cells.mean(axis=0)
    assert np.abs(share - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 20000)
    for shift, size in ((y, 3), (x, 5)):
        counts = np.bincount(shift, minlength=size)
        assert len(counts) == size
        assert np.abs(counts / 20000 - 1 / size).max() < 0.02
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.04


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("space", SPACES)
def test_adding_up_cells_is_adding_up_masks(space, interpolation, monkeypatch):
    monkeypatch.setattr("convaudit.stages.attributions.masks.BLOCK", 16)
    monkeypatch.setattr("convaudit.stages.attributions.masks.MOST_WEIGHTS", 100)
    masking = Masking(space, 4, 0.5, interpolation)
    scores = np.random.default_rng(0).standard_normal((3, 50))
    want = np.zeros((3, *space))
    for t in range(3):
        for n, mask in enumerate(mask_values(masking, 9, 0, 50)):
            want[t] += scores[t, n] * mask
    np.testing.assert_allclose(added_up(masking, 9, scores), want, atol=1e-12)


@pytest.mark.parametrize("space", [(12, 9), (24,)])
@pytest.mark.parametrize("normalisation", ["expected", "coverage"])
def test_rendering_takes_the_masks_that_were_used_and_no_others(space, normalisation):
    rng = np.random.default_rng(0)
    rendering = {"kind": "masks", "grid": 3, "keep": 0.4, "interpolation": "reflect", "normalisation": normalisation}
    score = rng.random((30, 4)).astype(np.float32)
    score[20:] = np.nan
    row = {
        "score": score,
        "base": np.zeros(4, np.float32),
        "target": np.array([2, 1, -1]),
        "against": np.array([-1, 3, -1]),
        "used": np.array(20),
        "mask_seed": np.array(77),
    }
    got = render_masks(row, rendering, (3, *space))
    masks = mask_values(Masking(space, 3, 0.4), 77, 0, 20)
    divisor = masks.sum(axis=0) if normalisation == "coverage" else 20 * 0.4
    for t, column in enumerate((score[:20, 2].astype(float), score[:20, 1].astype(float) - score[:20, 3])):
        np.testing.assert_allclose(got[t], np.tensordot(column, masks, 1) / divisor, atol=1e-9)
    assert np.isnan(got[2]).all()
    unused = render_masks(row | {"used": np.array(-1)}, rendering, (3, *space))
    assert unused.shape == (3, *space)
    assert np.isnan(unused).all()


def test_constant_scores_covered_evenly_are_that_constant():
    rendering = {"kind": "masks", "grid": 3, "keep": 0.4, "interpolation": "clamp", "normalisation": "coverage"}
    row = {"score": np.full((60, 2), 0.25), "base": np.zeros(2), "target": [0], "against": [-1], "used": 60}
    got = render_masks(row | {"mask_seed": 3}, rendering, (1, 12, 9))
    np.testing.assert_allclose(got, 0.25, atol=1e-12)


def test_reports_can_render_without_torch():
    code = "import sys, convaudit.stages.attributions.masks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
