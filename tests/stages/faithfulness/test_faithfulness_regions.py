"""Masks, outlines and agreement with regions, against loops."""

import itertools

import numpy as np
import pytest

from convaudit.stages.faithfulness.regions import (
    inside_share,
    otsu_mask,
    otsu_threshold,
    outline,
    overlap,
    pointing,
    pointing_tolerance,
    top_share_mask,
)


def _best_split(values):
    """Every possible cut between two values, by the variance between the two sides."""
    ordered = np.unique(values)
    best, where = -1.0, None
    for low, high in itertools.pairwise(ordered):
        below, above = values[values <= low], values[values >= high]
        between = len(below) * len(above) * (below.mean() - above.mean()) ** 2
        if between > best:
            best, where = between, (low, high)
    return where


@pytest.mark.parametrize("shape", [(7, 9), (40,)])
def test_otsu_finds_the_best_of_all_cuts(shape):
    generator = np.random.default_rng(0)
    for _ in range(20):
        # Whole numbers of 0 to 255 lie in bins of their own, so that 256 bins lose nothing.
        values = generator.integers(0, 256, shape).astype(float)
        values.flat[:2] = 0, 255
        low, high = _best_split(values)
        assert low <= otsu_threshold(values) <= high


def test_otsu_parts_two_heaps_in_the_middle_of_the_gap():
    values = np.array([0.0] * 90 + [10.0] * 10)
    assert otsu_threshold(values) == pytest.approx(5, abs=0.1)
    assert otsu_mask(values).sum() == 10
    assert otsu_threshold(-3 + 2 * values) == pytest.approx(-3 + 2 * otsu_threshold(values))


def test_otsu_of_nothing():
    assert otsu_threshold(np.full((2, 3), 4.0)) == 4
    assert np.isnan(otsu_threshold(np.full(3, np.nan)))
    for blank in (np.zeros((3, 2)), -np.ones((3, 2)), np.full((3, 2), np.nan)):
        assert not otsu_mask(blank).any()


@pytest.mark.parametrize("shape", [(6, 5), (13,)])
def test_the_outline_is_what_has_a_neighbour_outside(shape):
    mask = np.random.default_rng(2).random(shape) < 0.7
    want = np.zeros(shape, bool)
    for place in np.ndindex(*shape):
        for axis in range(len(shape)):
            for step in (-1, 1):
                other = list(place)
                other[axis] += step
                outside = not 0 <= other[axis] < shape[axis] or not mask[tuple(other)]
                want[place] |= mask[place] and outside
    np.testing.assert_array_equal(outline(mask), want)
    assert outline(np.ones((4, 5), bool)).sum() == 14


def test_the_top_share_is_a_number_of_positions():
    heatmap = np.array([[3.0, 1.0, 2.0], [1.0, np.nan, 5.0]])
    np.testing.assert_array_equal(top_share_mask(heatmap, 0.5), [[1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(top_share_mask(heatmap, 4 / 6), [[1, 1, 1], [0, 0, 1]])
    assert not top_share_mask(heatmap, 0).any()
    assert top_share_mask(heatmap, 1).all()


def test_pointing_inside_and_overlap_by_hand():
    heatmap = np.array([[0.0, 2.0, 1.0], [-9.0, 1.0, 0.0]])
    region = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert pointing(heatmap, region) == 1
    assert pointing(-heatmap, region) == 1
    assert pointing(heatmap, ~region) == 0
    assert inside_share(heatmap, region) == pytest.approx(3 / 4)
    assert overlap(heatmap > 0, region) == pytest.approx(2 / 4)
    assert overlap(region, region) == 1


@pytest.mark.parametrize("shape", [(9, 14), (23,)])
@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
def test_pointing_beside_a_region_counts_within_a_circle(shape, tolerance):
    generator = np.random.default_rng(3)
    for _ in range(20):
        heatmap, region = generator.standard_normal(shape), generator.random(shape) < 0.03
        region.flat[generator.integers(region.size)] = True
        place = max(np.ndindex(*shape), key=lambda at: heatmap[at])
        near = any(
            region[at] and sum((a - b) ** 2 for a, b in zip(at, place, strict=True)) <= tolerance**2
            for at in np.ndindex(*shape)
        )
        assert pointing(heatmap, region, tolerance) == near


def test_the_usual_tolerance_goes_with_the_input():
    assert [pointing_tolerance(None, space) for space in ((500, 333), (224, 224), (32, 32), (10,))] == [15, 7, 1, 0]
    assert pointing_tolerance(15, (32, 32)) == 15


def test_what_cannot_be_said_is_not_a_number():
    region, nowhere = np.array([True, False]), np.zeros(2, bool)
    assert np.isnan(pointing(np.ones(2), region))
    assert np.isnan(pointing(np.array([0.0, np.nan]), region))
    assert np.isnan(inside_share(-np.ones(2), region))
    for said in (pointing, inside_share):
        assert np.isnan(said(np.arange(2.0), nowhere))
    assert np.isnan(overlap(region, nowhere))
    assert overlap(nowhere, region) == 0
