import math

import pytest
from scipy.stats import binomtest

from convaudit.stages.errors import StageError
from convaudit.stages.numerics.statistics import rule_of_three, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 30), (1627, 2000), (1, 100_000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, n, confidence):
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_bounds_solve_the_quadratic_of_the_score_test():
    z = 1.959963984540054
    for bound in wilson(13, 41):
        assert abs(13 / 41 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 41), abs=1e-12)


def test_ends_are_exact_and_nothing_is_nan():
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert all(math.isnan(bound) for bound in wilson(0, 0))


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_refuses_what_is_no_share(successes, n, confidence):
    with pytest.raises(StageError, match="wilson"):
        wilson(successes, n, confidence)


def test_rule_of_three_bounds_the_exact_rate_from_above():
    for n in (1, 2, 3, 10, 540, 10**6):
        assert 1 - 0.05 ** (1 / n) <= rule_of_three(n) <= 1
    assert rule_of_three(300) == pytest.approx(0.01)
    assert math.isnan(rule_of_three(0))
    with pytest.raises(StageError):
        rule_of_three(-1)
