"""Class selectivity, against counting every draw there is."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from convaudit.stages.patches.selectivity import selectivity


def by_counting(labels, size):
    """Draw every subset of the data and count those in which the class is as frequent."""
    drawn = [c for c in labels if c >= 0]
    data = [c for c, n in enumerate(size) for _ in range(n)]
    found = {}
    for c in set(drawn):
        draws = list(combinations(data, len(drawn)))
        found[c] = sum(draw.count(c) >= drawn.count(c) for draw in draws) / len(draws)
    best = min(found, key=lambda c: (found[c], -drawn.count(c), c))
    return best, drawn.count(best) / len(drawn), len(drawn), min(1.0, sum(n > 0 for n in size) * found[best])


def test_it_agrees_with_counting_every_draw():
    rng = np.random.default_rng(0)
    size = np.array([6, 2, 0, 4])
    pool = np.repeat(np.arange(4), size)
    label = np.stack([rng.permutation(pool)[:4] for _ in range(25)])
    label[rng.random(label.shape) < 0.2] = -1
    label[:, 0] = pool[rng.integers(0, len(pool), 25)]
    found = selectivity(label, size)
    for row, labels in enumerate(label.tolist()):
        best, share, n, chance = by_counting(labels, size.tolist())
        assert (found.favourite[row], found.n[row]) == (best, n)
        assert found.share[row] == pytest.approx(share)
        assert found.chance[row] == pytest.approx(chance, rel=1e-9)


def test_a_frequent_class_is_no_preference_and_a_rare_one_is():
    size = np.array([900, 50, 50])
    found = selectivity(np.array([[0] * 9, [1] * 9, [0] * 6 + [2] * 3]), size)
    assert found.chance[0] > 0.5
    assert found.chance[1] == pytest.approx(3 * comb(50, 9) / comb(1000, 9), rel=1e-6)
    # The larger share is not the less likely one.
    assert (found.favourite[2], found.share[2]) == (2, pytest.approx(3 / 9))


def test_renaming_the_classes_changes_nothing_else():
    rng = np.random.default_rng(1)
    label, size, new = rng.integers(-1, 5, (30, 9)), np.array([40, 30, 20, 25, 60]), np.array([3, 0, 4, 1, 2])
    renamed = np.where(label >= 0, new[label], -1)
    moved = np.empty(5, int)
    moved[new] = size
    first, second = selectivity(label, size), selectivity(renamed, moved)
    np.testing.assert_allclose(first.chance, second.chance)
    assert (first.n == second.n).all()


def test_chance_alone_prefers_a_class_no_more_often_than_said():
    rng = np.random.default_rng(2)
    data = rng.permutation(np.repeat(np.arange(10), 60))
    label = np.stack([rng.choice(data, 9, replace=False) for _ in range(3000)])
    chance = selectivity(label, np.bincount(data)).chance
    assert (chance <= 0.01).mean() <= 0.015
    assert (chance <= 0.2).mean() <= 0.22


def test_without_labels_nothing_is_said():
    found = selectivity(np.full((3, 9), -1), np.array([0, 0]))
    assert (found.favourite == -1).all()
    assert np.isnan(found.share).all()
    assert np.isnan(found.chance).all()
