import numpy as np
import pytest

from convaudit.stages.gaze.spectral import affinities, clusters, eigengap, eigenvalues

RNG = np.random.default_rng(11)


def around(cell, n, rng=RNG, cells=30):
    weight = np.full(cells, 0.2)
    weight[cell] = 30
    return rng.dirichlet(weight, n)


def slow_affinities(shares):
    n = len(shares)
    distance = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            distance[i, j] = (sum((a**0.5 - b**0.5) ** 2 for a, b in zip(shares[i], shares[j], strict=True)) / 2) ** 0.5
    sigma = [sorted(row)[min(7, n - 1)] for row in distance]
    return np.array(
        [[max(np.exp(-(distance[i, j] ** 2) / (sigma[i] * sigma[j])), 1e-6) for j in range(n)] for i in range(n)]
    )


@pytest.mark.parametrize("n", [5, 20])
def test_affinity_is_a_gaussian_in_units_of_the_own_neighborhood(n):
    shares = RNG.dirichlet(np.ones(8), n)
    np.testing.assert_allclose(affinities(shares), slow_affinities(shares), rtol=1e-9)


def test_eigenvalues_are_those_of_the_random_walk():
    weight = affinities(RNG.dirichlet(np.ones(8), 15))
    walk = weight - np.diag(np.diag(weight))
    walk = walk / walk.sum(axis=1, keepdims=True)
    want = np.sort(1 - np.linalg.eigvals(walk).real)[:5]
    np.testing.assert_allclose(eigenvalues(weight, 5), want, atol=1e-9)
    assert eigenvalues(weight, 40).shape == (15,)


def test_the_largest_jump_says_how_many():
    assert eigengap(np.array([0, 0.8, 0.9, 0.95]), 3) == 1
    assert eigengap(np.array([0, 0.01, 0.9, 0.95]), 3) == 2
    assert eigengap(np.array([0, 0.01, 0.02, 0.95]), 3) == 3
    assert eigengap(np.array([0.0]), 3) == 1


@pytest.mark.parametrize("sizes", [(40, 25), (30, 20, 14)])
def test_planted_groups_are_found_largest_first(sizes):
    truth = np.repeat(np.arange(len(sizes)), sizes)
    order = RNG.permutation(len(truth))
    shares = np.concatenate([around(9 * k, n) for k, n in enumerate(sizes)])[order]
    group, values = clusters(shares, 5, 12, 0)
    np.testing.assert_array_equal(group, truth[order])
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert np.diff(values)[: len(sizes)].argmax() == len(sizes) - 1


def test_one_cloud_is_one_group():
    group, values = clusters(around(4, 60), 5, 12, 0)
    assert not group.any()
    assert values[1] > 0.3


def test_order_of_images_and_seed_do_not_matter():
    shares = np.concatenate([around(2, 30), around(20, 18)])
    first, _ = clusters(shares, 5, 12, 0)
    order = RNG.permutation(len(shares))
    second, _ = clusters(shares[order], 5, 12, 77)
    np.testing.assert_array_equal(second, first[order])


@pytest.mark.parametrize(
    "shares", [np.empty((0, 4)), np.ones((1, 1)), np.tile([0.2, 0.8], (30, 1)), RNG.dirichlet(np.ones(4), 11)]
)
def test_too_few_or_equal_maps_are_one_group_and_nothing_was_decided(shares):
    group, values = clusters(shares, 5, 12, 0)
    assert group.shape == (len(shares),)
    assert not group.any()
    assert np.isnan(values).all()


def test_copies_in_two_places_are_two_groups():
    shares = np.zeros((30, 9))
    shares[:18, 2], shares[18:, 7] = 1, 1
    group, _ = clusters(shares, 4, 12, 0)
    np.testing.assert_array_equal(group, [0] * 18 + [1] * 12)
