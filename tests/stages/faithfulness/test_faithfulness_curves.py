"""Deletion and insertion against loops written out, and against networks whose curves can be worked out by hand."""

import numpy as np
import pytest
import torch

from convaudit.stages.faithfulness.chance import random_heatmap
from convaudit.stages.faithfulness.curves import area, curve, probability, ranked, step_counts

SHAPES = [(3, 2, 4, 5), (2, 3, 11)]


def _network(shape, seed=0):
    weight = np.random.default_rng(seed).standard_normal((int(np.prod(shape[1:])), 4))
    return lambda images: torch.tanh(images.flatten(1)) @ torch.from_numpy(weight)


def _followed(network, first, last, heatmap, classes, counts):
    """One image at a time, one position at a time."""
    found = np.empty((len(first), len(counts)))
    for i in range(len(first)):
        places = sorted(np.ndindex(*heatmap.shape[1:]), key=lambda place: -heatmap[(i, *place)])
        for step, count in enumerate(counts):
            mixed = first[i].copy()
            for place in places[:count]:
                mixed[(slice(None), *place)] = last[i][(slice(None), *place)]
            logits = network(torch.from_numpy(mixed[None]))[0].numpy()
            powers = np.exp(logits - logits.max())
            found[i, step] = powers[classes[i]] / powers.sum()
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_curve_is_what_following_each_position_gives(shape, most):
    generator = np.random.default_rng(1)
    first, last = generator.standard_normal(shape), generator.standard_normal(shape)
    heatmaps = generator.integers(-3, 3, (2, shape[0], *shape[2:])).astype(float)  # with many equals
    classes, network = np.arange(shape[0]) % 4, _network(shape)
    counts = step_counts(heatmaps[0][0].size, 6)
    one, two = torch.from_numpy(first), torch.from_numpy(last)
    ends = probability(network(one), classes), probability(network(two), classes)
    got = curve(network, one, two, [ranked(h) for h in heatmaps], classes, counts, ends, most)
    for order in range(2):
        want = _followed(network, first, last, heatmaps[order], classes, counts)
        np.testing.assert_allclose(got[order], want, rtol=1e-12)


def test_no_call_holds_more_images_than_allowed_and_each_point_is_asked_once():
    shape, sizes = (3, 2, 4, 5), []
    network = _network(shape)

    def counting(images):
        sizes.append(len(images))
        return network(images)

    images = torch.randn(shape, dtype=torch.float64)
    ranks = [ranked(np.random.default_rng(i).random((3, 4, 5))) for i in range(2)]
    ends = (np.zeros(3), np.ones(3))
    curve(counting, images, -images, ranks, np.zeros(3, int), step_counts(20, 8), ends, most=7)
    assert max(sizes) <= 7
    assert sum(sizes) == 3 * 2 * 7


def test_channels_last_images_stay_so_and_give_the_same():
    shape = (2, 3, 6, 5)
    images = torch.randn(shape, dtype=torch.float64)
    formats = []

    def network(x):
        formats.append(x.is_contiguous(memory_format=torch.channels_last))
        return _network(shape)(x.contiguous())

    ranks, ends = [ranked(np.random.default_rng(0).random((2, 6, 5)))], (np.zeros(2), np.ones(2))
    found = [
        curve(network, version, torch.zeros_like(version), ranks, np.zeros(2, int), step_counts(30, 5), ends, 100)
        for version in (images, images.to(memory_format=torch.channels_last))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert formats == [False, True]


def test_a_linear_logit_falls_by_what_each_position_holds():
    """Two logits, w.x and 0: removing positions in the order of w*x leaves a sum that is known at each step."""
    generator = np.random.default_rng(3)
    weight, x = generator.standard_normal((2, 3, 4)), generator.standard_normal((5, 2, 3, 4))
    share = (weight * x).sum(axis=1)

    def network(images):
        return torch.stack([(images * torch.from_numpy(weight)).sum((1, 2, 3)), torch.zeros(len(images))], dim=1)

    counts = step_counts(12, 12)
    images = torch.from_numpy(x)
    zero = torch.zeros_like(images)
    classes = np.zeros(5, int)
    ends = probability(network(images), classes), probability(network(zero), classes)
    got = curve(network, images, zero, [ranked(share)], classes, counts, ends, 64)[0]
    ordered = -np.sort(-share.reshape(5, -1), axis=1)
    left = share.sum(axis=(1, 2))[:, None] - np.concatenate([np.zeros((5, 1)), ordered.cumsum(axis=1)], axis=1)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-left)), rtol=1e-10)
    # No order brings the sum down faster, and none brings it up faster.
    ids = [str(i) for i in range(5)]
    for seed in range(20):
        chance = ranked(random_heatmap(ids, (3, 4), "fine", seed))
        other = curve(network, images, zero, [chance], classes, counts, ends, 64)[0]
        assert (area(got, counts) <= area(other, counts) + 1e-12).all()
        back = [
            area(curve(network, zero, images, [rank], classes, counts, ends[::-1], 64)[0], counts)
            for rank in (ranked(share), chance)
        ]
        assert (back[0] >= back[1] - 1e-12).all()


def test_equals_keep_their_reading_order():
    heatmap = np.array([[[1.0, 2.0, 1.0], [2.0, 0.0, 2.0]]])
    np.testing.assert_array_equal(ranked(heatmap), [[[3, 0, 4], [1, 5, 2]]])


def test_steps_cover_every_position_once_also_where_they_do_not_divide():
    for positions in (1, 5, 16, 63, 1024):
        for steps in (1, 4, 16):
            counts = step_counts(positions, steps)
            assert len(counts) == steps + 1
            assert (counts[0], counts[-1]) == (0, positions)
            assert (np.diff(counts) >= 0).all()
            parts = np.diff(counts)[: min(steps, positions)]
            assert parts.max() - parts.min() <= 1


def test_the_area_weighs_parts_by_their_width():
    counts = np.array([0, 1, 4, 4])
    values = np.array([[1.0, 0.5, 0.5, 0.5], [0.25] * 4])
    np.testing.assert_allclose(area(values, counts), [0.25 * 0.75 + 0.75 * 0.5, 0.25])
    counts, line = step_counts(17, 5), step_counts(17, 5) / 17
    assert area(line[None], counts)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("grain", ["fine", "coarse"])
@pytest.mark.parametrize("space", [(9, 12), (24,), (3, 5)])
def test_chance_depends_on_the_image_alone(grain, space):
    both = random_heatmap(["a", "b"], space, grain, seed=0)
    assert both.shape == (2, *space)
    np.testing.assert_array_equal(random_heatmap(["b"], space, grain, seed=0)[0], both[1])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(random_heatmap(["a"], space, grain, seed=1)[0], both[0])


def test_coarse_chance_is_smooth():
    fine, coarse = (random_heatmap(["a"], (56, 49), grain, 0)[0] for grain in ("fine", "coarse"))
    assert np.abs(np.diff(coarse, axis=0)).mean() < np.abs(np.diff(fine, axis=0)).mean() / 4
