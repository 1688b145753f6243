"""The three signals against a case worked by hand and against slow replicas that share nothing with the code."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from convaudit.stages.mixing.agreement import agreements
from convaudit.stages.mixing.links import links
from convaudit.stages.mixing.pairs import evidence, judged
from convaudit.stages.mixing.separation import Table, separation


def _measured(features, label, predicted=None, metric="euclidean", usable=None):
    features, label = np.asarray(features, np.float32), np.asarray(label)
    predicted = label if predicted is None else np.asarray(predicted)
    usable = label >= 0 if usable is None else usable
    n_class = int(label.max()) + 1
    return separation(Table(features, usable, metric), label, predicted, n_class, features.shape[1])


def test_separation_by_hand():
    # Class 0 at 0 and 2, class 1 at 4 and 6, class 2 at 10 and 14, on a line.
    found = _measured([[0], [2], [4], [6], [10], [14]], [0, 0, 1, 1, 2, 2])
    # Within: (1 + 1) / 1 = 2, 2, (4 + 4) / 1 = 8. Off each squared distance: 2/2 + 2/2 = 2; 2/2 + 8/2 = 5.
    # Pooled variances: (2 + 2) / 2 = 2 and (2 + 8) / 2 = 5.
    assert found.value[0, 1] == pytest.approx(math.sqrt((16 - 2) / 2))
    assert found.value[0, 2] == pytest.approx(math.sqrt((121 - 5) / 5))
    assert found.value[1, 2] == pytest.approx(math.sqrt((49 - 5) / 5))
    np.testing.assert_allclose(found.value, found.value.T, equal_nan=True)
    assert np.isnan(np.diagonal(found.value)).all()
    # 2 is 2 from the other of its class (0) and 3 from the centroid 5: own. 10 is 4 from 14, and 5 from 5.
    assert np.nansum(found.crossed) == 0


def test_crossing_is_directed_and_halves_ties():
    # 3 lies 3 from the other of its class and 1 from the only place of class 1: crossed. 4 and 4 stay.
    found = _measured([[0], [3], [4], [4]], [0, 0, 1, 1], predicted=[0, 1, 1, 0])
    np.testing.assert_array_equal(found.crossed[[0, 1], [1, 0]], [1, 0])
    np.testing.assert_array_equal(found.crossed_taken[[0, 1], [1, 0]], [1, 0])
    # 2 lies 2 from the other of its class and 2 from class 1.
    found = _measured([[0], [2], [4], [4]], [0, 0, 1, 1])
    assert found.crossed[0, 1] == 0.5


def _slow_separation(features, label, a, b, unit):
    rows = np.array(features, np.float64)
    if unit:
        rows = np.stack([row / math.sqrt(sum(v * v for v in row)) for row in rows])
    groups = [[row for row, own in zip(rows, label, strict=True) if own == c] for c in (a, b)]
    means = [sum(group) / len(group) for group in groups]
    line = means[1] - means[0]
    line_length = math.sqrt(float(line @ line))
    chance, squares, crossed = 0.0, 0.0, [0.0, 0.0]
    for side, (group, mean) in enumerate(zip(groups, means, strict=True)):
        chance += sum(float((row - mean) @ (row - mean)) for row in group) / (len(group) - 1) / len(group)
        for at, row in enumerate(group):
            squares += float((row - mean) @ line / line_length) ** 2
            others = sum(group[:at] + group[at + 1 :]) / (len(group) - 1)
            crossed[side] += np.linalg.norm(row - means[1 - side]) < np.linalg.norm(row - others)
    variance = squares / (len(groups[0]) + len(groups[1]) - 2)
    return math.sqrt(max(0.0, line_length**2 - chance) / variance), crossed


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_separation_equals_a_replica(metric):
    rng = np.random.default_rng(3)
    label = rng.integers(0, 4, 70)
    label[:3] = -1
    features = (rng.normal(0, 1, (70, 7)) + 0.8 * np.eye(4, 7)[label] + 300 * (metric == "euclidean")).astype(
        np.float32
    )
    found = _measured(features, label, metric=metric)
    for a in range(4):
        for b in range(4):
            if a != b:
                value, crossed = _slow_separation(features, label, a, b, metric == "cosine")
                assert found.value[a, b] == pytest.approx(value, rel=1e-6, abs=1e-5)
                assert [found.crossed[a, b], found.crossed[b, a]] == crossed
    assert len({*found.crossed[~np.eye(4, dtype=bool)]}) > 2, "a transpose would fail"
    assert not np.allclose(found.crossed, found.crossed.T, equal_nan=True)


def test_links_equal_a_replica_that_a_transpose_fails():
    rng = np.random.default_rng(5)
    label = rng.choice([-1, 0, 1, 2], 60, p=[0.1, 0.6, 0.2, 0.1])
    index = np.stack([rng.permutation(np.delete(np.arange(60), at))[:4] for at in range(60)])
    index[7] = -1
    usable = (label >= 0) & (np.arange(60) != 7)
    found = links(index, usable, label, 3)
    count, asked = np.zeros((3, 3)), np.zeros(3)
    for at in range(60):
        ends = [label[other] for other in index[at] if usable[at] and other >= 0 and usable[other]]
        asked[label[at]] += bool(ends) and usable[at]
        for end in ends:
            count[label[at], end] += 1
    np.testing.assert_array_equal(found.count, count)
    np.testing.assert_array_equal(found.asked, asked)
    assert not np.array_equal(count, count.T)
    held = [sum(usable & (label == c)) for c in range(3)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        share = (count[a, b] + count[b, a]) / (count[a].sum() + count[b].sum())
        expected = (count[a].sum() * held[b] + count[b].sum() * held[a]) / (sum(held) - 1)
        chance = expected / (count[a].sum() + count[b].sum())
        assert found.share[a, b] == found.share[b, a] == pytest.approx(share)
        assert found.enrichment[b, a] == pytest.approx(share / chance)


def test_neighbors_drawn_from_all_have_enrichment_one():
    rng = np.random.default_rng(0)
    n = 3000
    label = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    index = (np.arange(n)[:, None] + rng.integers(1, n, (n, 10))) % n
    found = links(index, np.ones(n, bool), label, 3)
    assert found.enrichment[np.triu_indices(3, 1)] == pytest.approx(1, abs=0.05)


def test_two_samples_of_one_distribution_are_not_apart_however_many_dimensions():
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (80, 400))
    found = _measured(features, np.repeat([0, 1], 40))
    assert found.value[0, 1] < 2, "uncorrected it would be about sqrt(400 * 2 / 40) = 4.5"
    assert (found.crossed[0, 1] + found.crossed[1, 0]) / 80 > 0.3


def test_a_distance_of_two_deviations_is_found():
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1], 4000)
    features = rng.normal(0, 1, (8000, 5)) * [1, 3, 3, 3, 3]
    features[:, 0] += 2 * label
    found = _measured(features, label)
    assert found.value[0, 1] == pytest.approx(2, rel=0.08)


def _evidence(matrix, found, near, support=2):
    return evidence(np.asarray(matrix), found, near, support)


def _pairs_of(seed=0, n_class=6, n=240):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % n_class
    features = rng.normal(0, 1, (n, 4)) + 2 * rng.normal(0, 1, (n_class, 4))[label]
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    centre = np.stack([features[label == c].mean(0) for c in range(n_class)])
    predicted = (((features + rng.normal(0, 0.5, features.shape))[:, None] - centre) ** 2).sum(-1).argmin(1)
    matrix = np.zeros((n_class, n_class), int)
    np.add.at(matrix, (label, predicted), 1)
    near = links(np.argsort(distance, 1)[:, :5], np.ones(n, bool), label, n_class)
    return matrix, _evidence(matrix, _measured(features, label, predicted), near), predicted, label


def test_confusion_is_of_both_ways_and_ranks_are_spearmans():
    matrix, found, _, _ = _pairs_of()
    assert not np.array_equal(matrix, matrix.T)
    for at, (a, b) in enumerate(zip(found.first, found.second, strict=True)):
        taken = matrix[a, b] + matrix[b, a]
        assert found.hits[at, 0] == taken
        assert found.value[at, 0] == taken / (matrix[a].sum() + matrix[b].sum())
    one, two, three = agreements(found)
    turned = found.value * [1, -1, 1]
    assert one.value == pytest.approx(spearmanr(turned[:, 0], turned[:, 1]).statistic)
    assert two.value == pytest.approx(spearmanr(turned[:, 0], turned[:, 2]).statistic)
    assert three.value == pytest.approx(spearmanr(turned[:, 1], turned[:, 2]).statistic)
    assert one.n == 15
    assert one.low is not None
    assert one.low < one.value < one.high


def test_the_interval_is_the_jackknife_over_classes():
    _, found, _, _ = _pairs_of(4)
    one = agreements(found)[0]
    turned = found.value * [1, -1, 1]
    left = []
    for out in range(6):
        kept = [at for at in range(15) if out not in (found.first[at], found.second[at])]
        left.append(spearmanr(turned[kept, 0], turned[kept, 1]).statistic)
    error = math.sqrt(5 / 6 * sum((value - sum(left) / 6) ** 2 for value in left))
    assert one.low == pytest.approx(max(-1, one.value - 2.5705818356 * error))
    assert one.high == pytest.approx(min(1, one.value + 2.5705818356 * error))


def test_a_signal_is_held_against_the_other_pairs_and_against_one_image():
    _, found, _, _ = _pairs_of()
    typical = judged(found, 0.05).typical
    for at in range(15):
        others = [i for i in range(15) if i != at]
        rest = found.hits[others, 0].sum() / found.images[others, 0].sum()
        assert typical[at, 0] == pytest.approx(max(rest, 1 / found.images[at, 0]))


def test_images_that_head_and_centroids_treat_differently():
    features, label = np.array([[0.0], [1], [3], [9], [10], [11], [4], [12]]), np.array([0, 0, 0, 1, 1, 1, 1, 0])
    predicted = np.array([1, 0, 0, 1, 0, 1, 1, 1])
    found = _evidence(
        [[2, 2], [1, 3]], _measured(features, label, predicted), links(np.zeros((8, 1), int), label >= 0, label, 2)
    )
    # Nearer to the other centroid: the 4 (of class 1), the 12 (of class 0). The head: the 0 and 12 of class 0, the 10.
    assert found.hits[0].tolist()[:2] == [3, 2]
    assert found.head_only[0] == 2
    assert found.features_only[0] == 1


class _Blocks:
    """Features that may not be read all at once."""

    def __init__(self, rows, most):
        self.rows, self.most = rows, most

    def __getitem__(self, key):
        found = self.rows[key]
        assert len(found) <= self.most
        return found


def test_features_and_links_are_read_block_by_block():
    rng = np.random.default_rng(0)
    label = np.arange(9000) % 3
    features = (rng.normal(0, 1, (9000, 4)) + label[:, None]).astype(np.float32)
    whole = _measured(features, label)
    table = Table(_Blocks(features, 4096), label >= 0, "euclidean")
    found = separation(table, label, label, 3, 4)
    np.testing.assert_array_equal(found.value, whole.value)
    index = rng.integers(0, 9000, (40_000, 3))
    many = np.arange(40_000) % 3
    links(_Blocks(index, 16_384), np.ones(40_000, bool), many, 3)
