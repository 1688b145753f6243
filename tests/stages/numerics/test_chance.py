import numpy as np
import pytest

from convaudit.stages.numerics.chance import agreement_by_chance, is_chance


def test_chance_by_hand_and_for_a_constant_answer():
    label = np.array([0, 0, 0, 1])
    assert agreement_by_chance(label, np.array([0, 0, 1, 1]), 2) == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)
    assert agreement_by_chance(label, np.zeros(4, int), 2) == 0.75


def test_chance_is_the_agreement_of_answers_that_are_shuffled():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    shuffled = np.mean([(label == rng.permutation(predicted)).mean() for _ in range(4000)])
    assert agreement_by_chance(label, predicted, 3) == pytest.approx(shuffled, abs=0.005)


def test_few_right_answers_beyond_chance_are_chance_still():
    label = np.arange(40) % 2
    assert is_chance(label, np.zeros(40, int), 2)
    assert is_chance(label, np.where(np.arange(40) < 6, label, 0), 2)
    assert not is_chance(label, label, 2)
    assert not is_chance(np.zeros(40, int), np.zeros(40, int), 2)
