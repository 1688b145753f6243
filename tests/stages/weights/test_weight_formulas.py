"""Kernels, duplicates, magnitudes, singular values and slices against what loops and definitions say."""

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.weights.duplicates import chance_of_twins, expected_twins, twins
from convaudit.stages.weights.kernels import filters_of, norms_of, reading_norms
from convaudit.stages.weights.magnitude import expected_near_zero, is_near_zero
from convaudit.stages.weights.slices import fitted, padded, strongest
from convaudit.stages.weights.spectrum import chance_edge, largest, singular_values, spectrum

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, (3, 2)),
    "grouped": lambda: nn.Conv2d(4, 6, (3, 2), groups=2),
    "depthwise": lambda: nn.Conv1d(4, 8, 5, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, (3, 2)),
    "transposed in groups": lambda: nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    "transposed signal": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, (3, 2))),
}


def responses(module):
    """What each input channel alone adds to each output channel: the weights, squared and summed over the kernel.

    An impulse far from the border meets every weight of a channel exactly once.
    """
    n = module.in_channels
    space = (9,) * (module.weight.ndim - 2)
    found = np.zeros((n, module.out_channels))
    with torch.no_grad():
        still = module(torch.zeros(1, n, *space))
        for channel in range(n):
            impulse = torch.zeros(1, n, *space)
            impulse[(0, channel, *(4,) * len(space))] = 1
            found[channel] = ((module(impulse) - still)[0].double() ** 2).flatten(1).sum(1)
    return found


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_filters_and_readers_are_what_an_impulse_shows(kind):
    torch.manual_seed(0)
    module = CONVOLUTIONS[kind]()
    seen = responses(module)
    filters = filters_of(module)
    assert filters.shape[:2] == (module.out_channels, module.in_channels // module.groups)
    assert filters.dtype == np.float64
    np.testing.assert_allclose(norms_of(filters), np.sqrt(seen.sum(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(reading_norms(module), np.sqrt(seen.sum(axis=1)), rtol=1e-5)
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    for channel, planes in enumerate(filters):
        first = channel // outputs * inputs
        own = np.sqrt(seen[first : first + inputs, channel])
        np.testing.assert_allclose(np.linalg.norm(planes.reshape(inputs, -1), axis=1), own, rtol=1e-4)


def test_a_linear_layer_reads_features():
    linear = nn.Linear(5, 3).requires_grad_(False)
    expected = [float(linear.weight[:, column].double().norm()) for column in range(5)]
    np.testing.assert_allclose(reading_norms(linear), expected, rtol=1e-6)
    assert reading_norms(nn.ReLU()) is None


@pytest.mark.parametrize("groups", [1, 2])
def test_twins_are_the_best_of_all_pairs(groups):
    filters = np.random.default_rng(0).standard_normal((8, 3, 3, 2))
    filters[5] = -2.5 * filters[1]
    part = np.array([True] * 7 + [False])
    twin, cosine = twins(filters, groups, part)
    for a in range(8):
        alike = {}
        for b in range(8):
            if a != b and part[a] and part[b] and a // (8 // groups) == b // (8 // groups):
                x, y = filters[a].ravel(), filters[b].ravel()
                alike[b] = x @ y / np.sqrt((x @ x) * (y @ y))
        if not alike:
            assert twin[a] == -1
            assert np.isnan(cosine[a])
            continue
        # To filters 1 and 5 a third one is equally near, but for rounding.
        assert abs(alike[twin[a]]) == pytest.approx(max(map(abs, alike.values())))
        assert cosine[a] == pytest.approx(alike[twin[a]])
    if groups == 1:
        assert (twin[5], twin[1]) == (1, 5)
        assert cosine[5] == pytest.approx(-1)
    else:
        assert abs(cosine[5]) < 0.98  # the other one reads other channels


def test_what_chance_gives_of_twins():
    random = np.random.default_rng(1)
    for cells, limit in ((2, 0.9), (3, 0.6), (9, 0.5)):
        drawn = random.standard_normal((2, 40_000, cells))
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
        share = (np.abs((drawn[0] * drawn[1]).sum(axis=1)) > limit).mean()
        assert chance_of_twins(limit, cells) == pytest.approx(share, abs=0.01)
    assert chance_of_twins(0.98, 1) == 1.0
    assert expected_twins(0.98, 1, 12, 3) == 3 * 6
    assert expected_twins(0.98, 27, 64, 1) < 1e-12


def test_near_zero_is_told_from_the_largest():
    values = np.array([1.0, -0.011, 0.01, 0.0, np.nan])
    assert is_near_zero(values, 0.01).tolist() == [False, False, True, True, False]
    assert is_near_zero(np.zeros(3), 0.01).all()
    assert not is_near_zero(np.full(2, np.nan), 0.01).any()


def test_what_chance_gives_of_near_zero():
    norms = np.linalg.norm(np.random.default_rng(2).standard_normal((50_000, 2)), axis=1)
    assert expected_near_zero(norms, 2, 0.1) == pytest.approx(is_near_zero(norms, 0.1).sum(), rel=0.2)
    assert expected_near_zero(np.full(64, 3.0), 27, 0.01) < 1e-20
    assert np.isnan(expected_near_zero(np.zeros(4), 9, 0.01))


def test_singular_values_against_lapack():
    matrices = np.random.default_rng(3).standard_normal((3, 7, 12))
    expected = np.stack([np.sort(np.linalg.svd(matrix, compute_uv=False)) for matrix in matrices])
    np.testing.assert_allclose(singular_values(matrices), expected, rtol=1e-9)
    np.testing.assert_allclose(singular_values(matrices.swapaxes(1, 2)), expected, rtol=1e-9)
    assert largest(matrices) == pytest.approx(expected.max(), rel=1e-5)
    assert largest(matrices.swapaxes(1, 2)) == pytest.approx(expected.max(), rel=1e-5)


def test_one_matrix_in_a_hundred_passes_the_edge():
    random = np.random.default_rng(4)
    for rows, columns in ((16, 144), (60, 30)):
        tops = [np.linalg.norm(random.standard_normal((rows, columns)), 2) ** 2 for _ in range(600)]
        share = np.mean(np.array(tops) > chance_edge(rows, columns))
        assert 0.0005 <= share + 0.001 <= 0.03


def test_planted_directions_are_the_spikes():
    random = np.random.default_rng(5)
    weights = random.standard_normal((32, 16, 3, 3))
    clean = spectrum(weights, 1, 3, np.random.default_rng(0))
    assert (clean.spikes, clean.values) == (0, 32)
    for _ in range(2):
        u, v = random.standard_normal(32), random.standard_normal(144)
        weights += (40 * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)).reshape(weights.shape)
    found = spectrum(weights, 1, 3, np.random.default_rng(0))
    assert found.spikes == 2
    assert found.top > found.edge
    assert found.top > found.shuffled
    assert found == spectrum(weights, 1, 3, np.random.default_rng(0))
    again = spectrum(random.permutation(weights.ravel()).reshape(weights.shape), 1, 3, np.random.default_rng(0))
    assert again.spikes == 0


def test_a_shared_mean_is_no_spike_and_few_values_are_not_judged():
    weights = 5 + np.random.default_rng(6).standard_normal((32, 16, 3, 3))
    assert spectrum(weights, 1, 2, np.random.default_rng(0)).spikes == 0
    small = spectrum(weights[:, :1], 1, 2, np.random.default_rng(0))
    assert small.spikes == -1
    assert np.isnan(small.edge)
    weights[0, 0, 0, 0] = np.nan
    assert spectrum(weights, 1, 2, np.random.default_rng(0)).spikes == -1


def test_slices_are_the_planes_of_largest_norm():
    filters = np.random.default_rng(7).standard_normal((4, 5, 3, 2))
    filters[2, 3] *= 100
    filters[0, 1] *= 50
    filters[1, 1] = np.nan
    slices, of = strongest(filters, 6)
    assert of[:2].tolist() == [[2, 3], [0, 1]]
    np.testing.assert_array_equal(slices[0], filters[2, 3])
    norms = [np.linalg.norm(one) for one in slices]
    assert norms == sorted(norms, reverse=True)
    assert strongest(filters, 20)[1][-1].tolist() == [1, 1]
    assert strongest(filters, 0)[0].shape == (0, 3, 2)


def test_large_kernels_become_means_of_neighbours():
    kernels = np.random.default_rng(8).standard_normal((2, 6, 5))
    small = fitted(kernels, 3)
    assert small.shape == (2, 3, 3)
    np.testing.assert_allclose(small.mean(axis=(1, 2)), kernels.mean(axis=(1, 2)))
    # Rows are whole pairs; a column covers 5/3 cells.
    rows = kernels.reshape(2, 3, 2, 5).mean(axis=2)
    np.testing.assert_allclose(small[..., 0], (rows[..., 0] + 2 / 3 * rows[..., 1]) * 3 / 5)
    np.testing.assert_allclose(small[..., 1], (rows[..., 1] / 3 + rows[..., 2] + rows[..., 3] / 3) * 3 / 5)
    np.testing.assert_array_equal(fitted(kernels, 6), kernels)
    larger = padded(kernels, 3, 7)
    np.testing.assert_allclose(larger[:2, :6, :5], kernels, rtol=1e-6)
    assert np.isnan(larger[2]).all()
    assert np.isnan(larger[:, 6]).all()
