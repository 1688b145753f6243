import math

import numpy as np
import pytest

from convaudit.stages.confusion.selective import STEPS, selective, selective_notes


def drawn(n=230, seed=0):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(n), 2)  # with ties
    return confidence, rng.random(n) < confidence


def risk_from(confidence, right, floor):
    taken = [ok for sure, ok in zip(confidence, right, strict=True) if sure >= floor]
    return len(taken), sum(not ok for ok in taken)


def test_area_is_the_mean_over_images_of_the_risk_at_their_own_confidence():
    confidence, right = drawn()
    counts = [risk_from(confidence, right, sure) for sure in confidence]
    assert selective(confidence, right).area == pytest.approx(np.mean([wrong / n for n, wrong in counts]))


def test_curve_takes_the_surest_images_and_all_that_are_as_sure():
    confidence, right = drawn()
    found = selective(confidence, right)
    ranked = sorted(confidence, reverse=True)
    for step in (1, 7, 50, 99, 100):
        floor = ranked[math.ceil(step * len(ranked) / STEPS) - 1]
        n, wrong = risk_from(confidence, right, floor)
        place = step - 1
        assert (found.covered[place], found.wrong[place], found.threshold[place]) == (n, wrong, floor)
    assert found.covered[-1] == 230
    assert found.risk[-1] == pytest.approx(1 - right.mean())


def test_by_hand():
    # Risks from the surest on: 0, 1/2, 1/3, 2/4.
    found = selective(np.array([0.4, 0.9, 0.7, 0.8]), np.array([False, True, True, False]))
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    # At best the two wrong ones come last: 0, 0, 1/3, 2/4.
    assert found.excess == pytest.approx((1 / 2) / 4)


def test_perfect_order_has_no_excess_and_all_right_no_risk():
    confidence = np.linspace(1, 0, 50)
    assert selective(confidence, np.arange(50) < 40).excess == pytest.approx(0)
    assert selective(confidence, np.ones(50, bool)).area == 0


def test_the_order_of_the_images_and_the_scale_of_confidence_do_not_matter():
    confidence, right = drawn()
    order = np.random.default_rng(3).permutation(len(right))
    a, b = selective(confidence, right), selective(confidence[order] ** 3, right[order])
    assert a.area == pytest.approx(b.area)
    np.testing.assert_array_equal(a.covered, b.covered)
    np.testing.assert_array_equal(a.wrong, b.wrong)


def test_equal_confidences_are_answered_together():
    found = selective(np.full(10, 0.5), np.arange(10) < 7)
    assert found.covered.tolist() == [10] * STEPS
    assert found.area == pytest.approx(0.3)


def test_one_image_and_one_certain_error():
    found = selective(np.array([1.0]), np.array([False]))
    assert (found.area, found.excess) == (1, 0)
    steps = selective_notes(found)["steps"]
    assert len(steps) == STEPS
    assert steps[0]["least"] == 1
