"""Structural similarity, against the formula written out cell by cell."""

import numpy as np
import pytest

from convaudit.stages.faithfulness.ssim import structural_similarity


def _replica(first, second):
    """Equation 13 with a window of 11 cells and standard deviation 1.5 around each cell, cut at the border."""
    x, y = np.abs(first) / np.abs(first).max(), np.abs(second) / np.abs(second).max()
    found = []
    for middle in np.ndindex(*x.shape):
        places, weights = [], []
        for place in np.ndindex(*x.shape):
            apart = [a - b for a, b in zip(place, middle, strict=True)]
            if max(map(abs, apart)) <= 5:
                places.append(place)
                weights.append(np.exp(-sum(step**2 for step in apart) / (2 * 1.5**2)))
        weights = np.array(weights) / sum(weights)
        a, b = (np.array([values[place] for place in places]) for values in (x, y))
        mean_a, mean_b = weights @ a, weights @ b
        spread_a, spread_b = weights @ (a - mean_a) ** 2, weights @ (b - mean_b) ** 2
        both = weights @ ((a - mean_a) * (b - mean_b))
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        found.append(luminance * (2 * both + 9e-4) / (spread_a + spread_b + 9e-4))
    return np.mean(found)


@pytest.mark.parametrize("shape", [(3, 14, 9), (2, 4, 6), (3, 29), (2, 5)])
def test_each_cell_by_the_formula(shape):
    generator = np.random.default_rng(0)
    first = generator.standard_normal(shape)
    second = first + generator.standard_normal(shape)
    want = [_replica(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(structural_similarity(first, second), want, rtol=1e-10)
    assert all(abs(value) < 0.99 for value in want)


def test_two_even_heatmaps_differ_in_luminance_alone():
    """Away from one cell that sets the scale, each window holds one value: 0.5 in the one, 0.25 in the other."""
    first, second = np.full((1, 400), 0.5), np.full((1, 400), 0.25)
    first[0, 0] = second[0, 0] = 1
    luminance = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert structural_similarity(first, second)[0] == pytest.approx(luminance, abs=0.01)


def test_equals_are_1_whatever_their_sign_and_scale_and_the_order_does_not_matter():
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((2, 3, 8, 13))
    np.testing.assert_allclose(structural_similarity(first, -7 * first), 1)
    np.testing.assert_allclose(structural_similarity(first, second), structural_similarity(second, first))
    np.testing.assert_allclose(
        structural_similarity(first, second),
        structural_similarity(first.transpose(0, 2, 1), second.transpose(0, 2, 1)),
    )


def test_heatmaps_without_anything_to_compare_have_no_number():
    heatmap, blank, broken = np.arange(12.0).reshape(1, 3, 4), np.zeros((1, 3, 4)), np.full((1, 3, 4), np.nan)
    assert 0 <= structural_similarity(heatmap, blank)[0] < 0.5
    for first, second in ((blank, heatmap), (1 + blank, heatmap), (broken, heatmap), (heatmap, broken)):
        assert np.isnan(structural_similarity(first, second)[0])
