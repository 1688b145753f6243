import itertools

import numpy as np
import pytest
import scipy.stats

from convaudit.stages.gaze.groups import group_sides, mean_maps, means, members

RNG = np.random.default_rng(5)


def test_groups_are_all_classes_and_the_most_confused_pairs():
    label = np.array([0, 0, 1, 1, 1, 2, 3, 3, -1, 0])
    predicted = np.array([0, 1, 0, 0, 1, 3, 2, 3, 0, -1])
    sides = group_sides(label, predicted, 4, 3)
    assert sides.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3], [1, 0], [0, 1], [2, 3]]
    assert group_sides(label, predicted, 4, 6)[8:].tolist() == [[-1, -1]] * 2
    assert group_sides(label, predicted, 4, 0).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_every_image_is_in_the_group_of_its_label_and_prediction():
    label, predicted = RNG.integers(-1, 6, 300), RNG.integers(-1, 6, 300)
    sides = group_sides(label, predicted, 6, 5)
    want = [
        next((row for row, side in enumerate(sides) if side[0] >= 0 and tuple(side) == pair), -1)
        for pair in zip(label, predicted, strict=True)
    ]
    np.testing.assert_array_equal(members(sides, label, predicted), want)


def test_nobody_is_in_a_group_without_labels():
    label = np.full(4, -1)
    sides = group_sides(label, np.array([0, 1, 2, -1]), 3, 2)
    assert members(sides, label, np.array([0, 1, 2, -1])).tolist() == [-1] * 4


def test_mean_maps_are_means_and_do_not_show_how_images_are_cut_into_blocks():
    shares = RNG.dirichlet(np.ones(12), 40).reshape(40, 3, 4).astype(np.float32)
    group = RNG.integers(-1, 5, 40)
    group[group == 3] = 0
    results = []
    for cuts in ([0, 40], [0, 1, 2, 17, 40], list(range(41))):
        blocks = [(group[a:b], shares[a:b]) for a, b in itertools.pairwise(cuts)]
        results.append(mean_maps(blocks, 5, (3, 4)))
    for mean, count in results[1:]:
        assert mean.tobytes() == results[0][0].tobytes()
        assert count.tolist() == results[0][1].tolist()
    mean, count = results[0]
    for row in range(5):
        own = [shares[i].astype(float) for i in range(40) if group[i] == row]
        assert count[row] == len(own)
        if own:
            np.testing.assert_allclose(mean[row], sum(own) / len(own), rtol=1e-12)
    assert np.isnan(mean[3]).all()


def test_order_of_images_moves_nothing_but_the_last_bits():
    shares, group = RNG.dirichlet(np.ones(6), 30).reshape(30, 6), RNG.integers(0, 3, 30)
    order = RNG.permutation(30)
    first, second = mean_maps([(group, shares)], 3, (6,))[0], mean_maps([(group[order], shares[order])], 3, (6,))[0]
    np.testing.assert_allclose(second, first, rtol=1e-12)


def test_bounds_are_those_of_students_t():
    values, group = RNG.uniform(0.2, 0.5, 50), RNG.integers(0, 4, 50)
    values[3] = np.nan
    found = means(values, group, 4, 1.0)
    for row in range(4):
        own = values[(group == row) & np.isfinite(values)]
        want = scipy.stats.t.interval(0.95, len(own) - 1, own.mean(), scipy.stats.sem(own))
        assert found.value[row] == pytest.approx(own.mean())
        np.testing.assert_allclose(found.bound[row], want, rtol=1e-9)


def test_one_image_has_a_mean_without_bounds_and_none_has_neither():
    found = means(np.array([0.25, np.nan]), np.array([0, 1]), 3, 1.0)
    assert found.value[0] == 0.25
    assert np.isnan(found.value[1:]).all()
    assert np.isnan(found.bound).all()


def test_bounds_end_where_the_values_do():
    found = means(np.array([0.0, 1.0, 0.0, 0.02]), np.array([0, 0, 1, 1]), 2, 1.0)
    assert found.bound[0].tolist() == [0.0, 1.0]
    assert found.bound[1][0] == 0.0
