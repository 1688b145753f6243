"""Moran's I against loops over pairs, its null against enumeration, p-values and verdicts against simulation."""

import itertools
import math

import numpy as np
import pytest

from convaudit.stages.weights.moran import (
    adjusted,
    chance_deviation,
    chance_mean,
    filter_p_values,
    is_judgeable,
    morans_i,
    planes_needed,
)
from convaudit.stages.weights.smoothness import Standard, judge

STANDARD = Standard(effect=0.0625, level=0.01, power=0.9, discovery=0.05)


def slow_moran(plane):
    """Every ordered pair of cells, weight 1 where they share a side."""
    cells = list(itertools.product(*(range(length) for length in plane.shape)))
    mean = plane.mean()
    total = weights = 0.0
    for a in cells:
        for b in cells:
            if sum(abs(i - j) for i, j in zip(a, b, strict=True)) == 1:
                weights += 1
                total += (plane[a] - mean) * (plane[b] - mean)
    return len(cells) / weights * total / ((plane - mean) ** 2).sum()


@pytest.mark.parametrize("kernel", [(3, 3), (5, 4), (2, 3), (7,), (1, 7), (3, 2, 4)])
def test_it_is_the_sum_over_pairs(kernel):
    planes = np.random.default_rng(0).standard_normal((4, *kernel)) * 3 + 1
    np.testing.assert_allclose(morans_i(planes), [slow_moran(plane) for plane in planes], rtol=1e-12)


def test_known_patterns():
    y, x = np.mgrid[:3, :3]
    centre = np.where((y == 1) & (x == 1), 1.0, 0.0)
    board = (-1.0) ** (y + x)
    np.testing.assert_allclose(morans_i(np.stack([x + y, centre, board]).astype(float)), [0.5, -0.25, -1.0], rtol=1e-9)
    assert np.isnan(morans_i(np.full((1, 3, 3), 2.5))).all()


def test_scale_and_shift_change_nothing():
    planes = np.random.default_rng(1).standard_normal((5, 4, 3))
    np.testing.assert_allclose(morans_i(planes * -7 + 3), morans_i(planes), rtol=1e-9)


@pytest.mark.parametrize("kernel", [(2, 3), (6,)])
def test_the_mean_under_chance_is_exact_for_any_weights(kernel):
    """Over all orders of six weights of any distribution."""
    weights = np.array([0.0, 0.0, 0.1, 5.0, -2.0, 0.3])
    orders = np.array(list(itertools.permutations(weights))).reshape(-1, *kernel)
    assert morans_i(orders).mean() == pytest.approx(-1 / 5, abs=1e-12)
    assert chance_mean(kernel) == -1 / 5


@pytest.mark.parametrize(
    ("kernel", "known"), [((3, 3), 0.231), ((5, 5), 0.146), ((7, 7), 0.105), ((11, 11), 0.066), ((7,), None)]
)
def test_the_deviation_under_chance(kernel, known):
    drawn = morans_i(np.random.default_rng(2).standard_normal((60_000, *kernel)))
    assert drawn.mean() == pytest.approx(chance_mean(kernel), abs=4 * drawn.std() / 245)
    assert drawn.std() == pytest.approx(chance_deviation(kernel), rel=0.015)
    if known:
        assert chance_deviation(kernel) == pytest.approx(known, abs=1.5e-3)


def test_a_verdict_takes_about_200_planes_of_3_by_3():
    assert 150 <= planes_needed((3, 3), 0.0625, 0.01, 0.9) <= 200
    assert planes_needed((11, 11), 0.0625, 0.01, 0.9) < 20


@pytest.mark.parametrize(
    ("kernel", "can"), [((1, 1), False), ((3,), False), ((4, 1), False), ((5,), True), ((1, 7), True), ((2, 2), True)]
)
def test_where_neighbours_can_tell(kernel, can):
    assert is_judgeable(kernel) is can


def test_p_values_against_a_simulation_of_its_own():
    rng = np.random.default_rng(3)
    mean, planes = np.array([0.1, -0.125, -0.3, np.nan, 0.0]), np.array([4, 4, 4, 0, 9], np.int32)
    p = filter_p_values(mean, planes, (3, 3), 4999, seed=5)
    for row in (0, 1, 2, 4):
        drawn = [morans_i(rng.standard_normal((planes[row], 3, 3))).mean() for _ in range(3000)]
        assert p[row] == pytest.approx(np.mean(np.array(drawn) >= mean[row]), abs=0.03)
    assert np.isnan(p[3])
    assert p[:3].min() > 0
    np.testing.assert_array_equal(p, filter_p_values(mean, planes, (3, 3), 4999, seed=5))
    assert not np.array_equal(p, filter_p_values(mean, planes, (3, 3), 4999, seed=6))


def test_p_values_of_chance_are_uniform():
    each = morans_i(np.random.default_rng(4).standard_normal((800 * 6, 3, 3))).reshape(800, 6)
    p = filter_p_values(each.mean(axis=1), np.full(800, 6, np.int32), (3, 3), 999, seed=0)
    assert np.abs(np.sort(p) - (np.arange(800) + 0.5) / 800).max() < 1.63 / math.sqrt(800)


def test_the_false_discovery_rate_steps_up():
    p = np.array([0.03, 0.001, np.nan, 0.02, 0.9])
    # By hand, over four: sorted 0.001 0.02 0.03 0.9 times 4/rank, then the least from the right.
    np.testing.assert_allclose(adjusted(p), [0.04, 0.004, np.nan, 0.04, 0.9])


def judged(planes, part=None):
    """Verdict on filters given as (filter, plane, y, x)."""
    n, each, *kernel = planes.shape
    moran = morans_i(planes.reshape(-1, *kernel)).reshape(n, each)
    counts = np.full(n, each, np.int32)
    p = filter_p_values(moran.mean(axis=1), counts, kernel, 999, 0)
    part = np.ones(n, bool) if part is None else part
    return judge(moran.mean(axis=1), counts, p, part, kernel, STANDARD)


def test_verdicts():
    noise = np.random.default_rng(5).standard_normal((16, 24, 3, 3))
    y, x = np.mgrid[:3, :3]
    assert judged(noise).verdict == "noise"
    assert judged(noise + 2 * (x - 1)).verdict == "smooth"
    assert judged(noise + 2 * (-1.0) ** (x + y)).verdict == "rough"
    assert judged(noise[:, :8] + 2 * (x - 1)).verdict == "inconclusive"
    assert judged(noise[:, :8]).reason == "128 of 178 planes"
    assert judged(noise[..., :1, :1]).verdict == "not applicable"


def test_chance_is_rarely_called_structure():
    rng = np.random.default_rng(6)
    verdicts = [judged(rng.uniform(-1, 1, (10, 20, 3, 3))).verdict for _ in range(200)]
    assert verdicts.count("noise") > 150
    assert verdicts.count("smooth") + verdicts.count("rough") < 14


def test_smooth_and_rough_filters_that_cancel_are_no_noise():
    noise = np.random.default_rng(7).standard_normal((16, 24, 3, 3))
    y, x = np.mgrid[:3, :3]
    noise[:8] += 0.75 * (x - 1)
    noise[8:] += 0.5 * (-1.0) ** (x + y)
    mixed = judged(noise)
    assert abs(mixed.mean - mixed.chance) < 0.03
    assert mixed.verdict == "inconclusive"
    assert "differ" in mixed.reason


def test_filters_near_zero_take_no_part():
    planes = np.random.default_rng(8).standard_normal((24, 16, 3, 3))
    planes[12:] += 3 * np.mgrid[:3, :3][1]
    part = np.arange(24) < 12
    assert judged(planes).verdict == "smooth"
    alone = judged(planes, part)
    assert (alone.verdict, alone.planes, alone.filters) == ("noise", 192, 12)
    assert np.isnan(alone.q[12:]).all()
    none = judged(planes, np.zeros(24, bool))
    assert none.verdict == "inconclusive"
    assert math.isnan(none.mean)
