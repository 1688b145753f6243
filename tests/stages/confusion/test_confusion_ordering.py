import itertools

import numpy as np
import pytest

from convaudit.stages.confusion.ordering import OPTIMAL, clustered, densest


def planted(groups, n_class, seed=0, support=40):
    """Classes of one group are taken for each other; otherwise one image here and there goes astray."""
    rng = np.random.default_rng(seed)
    matrix = np.diag(np.full(n_class, support))
    for group in groups:
        for a, b in itertools.permutations(group, 2):
            matrix[a, b] += 10 + rng.integers(0, 3)
    stray = rng.integers(0, n_class, (n_class, 2))
    np.add.at(matrix, (stray[:, 0], stray[:, 1]), 1)
    return matrix


def contiguous(order, group):
    places = sorted(np.flatnonzero(np.isin(order, group)))
    return places[-1] - places[0] == len(group) - 1


@pytest.mark.parametrize("n_class", [30, OPTIMAL + 20])
def test_planted_groups_stand_together(n_class):
    mixed = np.random.default_rng(1).permutation(n_class)
    groups = [mixed[:4].tolist(), mixed[4:7].tolist(), mixed[7:12].tolist()]
    order = clustered(planted(groups, n_class))
    assert sorted(order.tolist()) == list(range(n_class))
    for group in groups:
        assert contiguous(order, group)


def test_renaming_the_classes_renames_the_groups():
    rename = np.random.default_rng(2).permutation(20)
    matrix = planted([[0, 7, 13], [2, 3]], 20)
    renamed = np.zeros_like(matrix)
    renamed[np.ix_(rename, rename)] = matrix
    order = clustered(renamed)
    assert contiguous(order, rename[[0, 7, 13]])
    assert contiguous(order, rename[[2, 3]])


@pytest.mark.parametrize(
    "matrix", [np.diag([3, 2, 1, 5]), np.zeros((5, 5), int), np.array([[4]]), np.ones((2, 2), int)]
)
def test_without_anything_to_order_classes_stay_as_they_are(matrix):
    assert clustered(matrix).tolist() == list(range(len(matrix)))


@pytest.mark.parametrize("size", [1, 3, 9, 99])
def test_densest_block_is_that_of_a_loop(size):
    rng = np.random.default_rng(4)
    matrix, order = rng.poisson(1.5, (14, 14)), rng.permutation(14)
    size_in = min(size, 14)
    errors = []
    for start in range(14 - size_in + 1):
        inside = order[start : start + size_in]
        errors.append(sum(matrix[a, b] for a in inside for b in inside if a != b))
    assert densest(matrix, order, size) == int(np.argmax(errors))
