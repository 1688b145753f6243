import itertools
import math

import numpy as np
import pytest

from convaudit.stages.confusion.calibration import by_chance, calibration
from convaudit.stages.confusion.probabilities import scores
from convaudit.stages.confusion.stage import Confusion
from convaudit.stages.confusion.temperature import temperature
from convaudit.stages.errors import ConfigError, StageError

from ...stored_fake import StoredFake, codes_of, make_subject, settle, values_of


def drawn(n=400, n_class=5, sharpness=1.0, seed=0):
    """Logits whose softmax is the truth, and then multiplied: `sharpness` is the temperature that mends them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (n, n_class))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    label = np.array([rng.choice(n_class, p=row) for row in p])
    return (true * sharpness).astype(np.float32), label


def audit(logit, label, predicted=None, **settings):
    value = np.asarray(logit, np.float64)
    p = np.exp(value - value.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    predicted = value.argmax(1) if predicted is None else np.asarray(predicted)
    stored = StoredFake(
        {
            "predictions/logit": np.where((predicted < 0)[:, None], np.nan, logit).astype(np.float32),
            "predictions/predicted": predicted.astype(np.int32),
            "predictions/confidence": np.where(predicted < 0, np.nan, p.max(1)).astype(np.float32),
        }
    )
    names = tuple(map(str, range(logit.shape[1])))
    return settle(Confusion(**settings), make_subject(label, class_names=names), stored, []), stored


def replica(logit, label, bins):
    """Image by image and class by class, with Python's own numbers."""
    n, n_class = len(label), len(logit[0])
    rows = [[math.exp(z - max(row)) for z in row] for row in logit]
    p = [[e / sum(row) for e in row] for row in rows]
    nll = -sum(math.log(p[i][label[i]]) for i in range(n)) / n
    brier = sum((p[i][c] - (c == label[i])) ** 2 for i in range(n) for c in range(n_class)) / n
    errors = []
    for c in range(n_class):
        total = 0.0
        for b in range(bins):
            inside = [i for i in range(n) if b / bins <= p[i][c] < (b + 1) / bins or (b == bins - 1 and p[i][c] == 1.0)]
            if inside:
                share = sum(label[i] == c for i in inside) / len(inside)
                total += len(inside) / n * abs(share - sum(p[i][c] for i in inside) / len(inside))
        errors.append(total)
    ranks = [sorted(range(n_class), key=lambda c, i=i: (-logit[i][c], c)).index(label[i]) for i in range(n)]
    return nll, brier, errors, [ranks.count(k) for k in range(n_class)]


@pytest.mark.parametrize("bins", [1, 10, 15, 20])
def test_scores_are_those_of_a_loop_over_images_and_classes(bins):
    logit, label = drawn(n=150, n_class=4)
    logit[3], logit[4] = 0, [1, 2, 2, 0]
    parts = [(logit[:60], label[:60]), (logit[60:], label[60:])]
    found = scores(parts, 4, bins)
    nll, brier, classwise, ranks = replica(logit.astype(float).tolist(), label.tolist(), bins)
    assert found.nll == pytest.approx(nll, abs=1e-12)
    assert found.brier == pytest.approx(brier, abs=1e-12)
    np.testing.assert_allclose(found.classwise, classwise, atol=1e-12)
    assert found.rank_count.tolist() == ranks
    assert found.within(2) == ranks[0] + ranks[1]


def test_scores_by_hand():
    # Two images of two classes with probabilities 3/4 and 1/4; the second is wrong.
    logit = np.array([[math.log(3), 0], [math.log(3), 0]], np.float64)
    found = scores([(logit, np.array([0, 1]))], 2, 2)
    assert found.nll == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert found.brier == pytest.approx((2 * 0.25**2 + 2 * 0.75**2) / 2)
    np.testing.assert_allclose(found.classwise, [0.25, 0.25])
    assert found.rank_count.tolist() == [1, 1]


def test_renaming_the_classes_changes_no_score():
    logit, label = drawn()
    order = np.array([3, 1, 4, 0, 2])
    a, b = scores([(logit, label)], 5, 10), scores([(logit[:, order], np.argsort(order)[label])], 5, 10)
    assert (a.nll, a.brier) == pytest.approx((b.nll, b.brier))
    np.testing.assert_allclose(a.classwise[order], b.classwise)


def test_certainty_that_is_wrong_costs_what_its_logits_say():
    found = scores([(np.array([[2000.0, 0.0]]), np.array([1]))], 2, 15)
    assert found.nll == 2000
    assert found.brier == 2


def test_ece_with_confidence_of_exactly_0_and_1():
    for bins in (10, 15, 20):
        found = calibration(np.array([0.0, 1.0, 1.0]), np.array([True, False, True]), bins)
        assert found.count.tolist() == [1] + [0] * (bins - 2) + [2]
        assert found.error == pytest.approx((1 * 1 + 2 * 0.5) / 3)
        assert np.isnan(found.accuracy[1:-1]).all()


def test_ece_of_confidences_on_the_borders_and_without_images():
    found = calibration(np.array([0.1, 0.2, 0.5]), np.array([True, True, True]), 10)
    assert np.flatnonzero(found.count).tolist() == [1, 2, 5]
    assert np.isnan(calibration(np.empty(0), np.empty(0, bool), 10).error)


def test_one_class_is_certain_and_right():
    summary, stored = audit(np.random.default_rng(0).normal(size=(30, 1)), np.zeros(30, int))
    values = values_of(summary)
    assert [values[f"confusion/{key}"] for key in ("ece", "ece_10", "ece_20", "nll", "brier")] == [0] * 5
    assert np.isnan(values["confusion/temperature"])
    assert stored["confusion/rank_count"].tolist() == [30]


def test_one_image_has_scores_and_no_cross_fit():
    summary, _ = audit(np.array([[0.0, 1.0]]), np.array([0]))
    values = values_of(summary)
    assert values["confusion/nll"] == pytest.approx(math.log(1 + math.e))
    assert np.isnan(values["confusion/ece_scaled"])


def test_error_of_every_number_of_bins_is_measured():
    logit, label = drawn(sharpness=2)
    summary, stored = audit(logit, label, bins=15, other_bins=(10, 15, 20))
    confidence, right = stored["predictions/confidence"], logit.argmax(1) == label
    values = values_of(summary)
    for name, bins in (("ece", 15), ("ece_10", 10), ("ece_20", 20)):
        edges = [b / bins for b in range(bins)] + [1.1]
        total = 0.0
        for low, high in itertools.pairwise(edges):
            inside = (confidence >= low) & (confidence < high)
            total += abs(right[inside].sum() - confidence[inside].astype(float).sum()) / len(label)
        assert values[f"confusion/{name}"] == pytest.approx(total, abs=1e-9)
    assert "confusion/ece_15" not in values


def test_temperature_is_the_minimum_of_a_grid():
    logit, label = drawn(n=600, sharpness=2.5)
    found = temperature(logit, label)
    assert found is not None

    def nll(t):
        z = logit.astype(np.float64) / t
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), label]).mean()

    grid = np.arange(1.0, 5.0, 0.001)
    assert found == pytest.approx(grid[np.argmin([nll(t) for t in grid])], abs=0.002)


def test_temperature_follows_the_scale_of_the_logits():
    logit, label = drawn(n=300)
    base = temperature(logit, label)
    assert base is not None
    assert temperature(4 * logit, label) == pytest.approx(4 * base, rel=1e-6)
    assert temperature(logit + 100 * np.arange(300)[:, None], label) == pytest.approx(base, rel=1e-4)


def test_there_is_no_best_temperature_where_all_are_right_or_worse_than_nothing():
    logit, _ = drawn()
    assert temperature(logit, logit.argmax(1)) is None
    assert temperature(logit, logit.argmin(1)) is None
    summary, _ = audit(logit, logit.argmax(1))
    assert summary.notes["trust"]["temperature"]["value"] is None
    assert np.isnan(values_of(summary)["confusion/temperature"])


def test_planted_overconfidence_is_found_and_mended():
    logit, label = drawn(n=3000, sharpness=3)
    summary, _ = audit(logit, label)
    values = values_of(summary)
    assert values["confusion/temperature"] == pytest.approx(3, rel=0.1)
    assert values["confusion/ece"] > 0.1
    assert values["confusion/ece_scaled"] < 0.04
    assert values["confusion/nll_scaled"] < values["confusion/nll"]
    finding = codes_of(summary)["confusion/miscalibrated"]
    assert "too sure" in finding.title
    wrong = np.flatnonzero(logit.argmax(1) != label)
    assert set(finding.images) <= set(wrong.tolist())


def test_timid_confidence_is_told_as_such_and_true_confidence_not_at_all():
    logit, label = drawn(n=3000, sharpness=0.3)
    assert "too modest" in codes_of(audit(logit, label)[0])["confusion/miscalibrated"].title
    logit, label = drawn(n=3000)
    assert "confusion/miscalibrated" not in codes_of(audit(logit, label)[0])


def test_few_images_are_no_proof_of_a_wrong_confidence():
    logit, label = drawn(n=40)
    summary, _ = audit(logit, label)
    assert values_of(summary)["confusion/ece"] > 0.05
    assert "confusion/miscalibrated" not in codes_of(summary)


def test_a_temperature_may_be_fitted_on_some_of_the_images():
    logit, label = drawn(n=2000, sharpness=3)
    summary, _ = audit(logit, label, temperature_images=501)
    told = summary.notes["trust"]["temperature"]
    assert told["images"] == 501
    assert told["value"] == pytest.approx(3, rel=0.2)
    assert values_of(summary)["confusion/ece_scaled"] < 0.06


def test_scores_leave_out_bad_and_unlabelled_images():
    logit, label = drawn(n=60)
    predicted = logit.argmax(1)
    predicted[[5, 44]] = -1
    label[[0, 17]] = -1
    keep = np.setdiff1d(np.arange(60), [0, 5, 17, 44])
    summary, stored = audit(logit, label, predicted)
    nll, brier, _, ranks = replica(logit[keep].astype(float).tolist(), label[keep].tolist(), 15)
    assert values_of(summary)["confusion/nll"] == pytest.approx(nll)
    assert values_of(summary)["confusion/brier"] == pytest.approx(brier)
    assert stored["confusion/rank_count"].tolist() == ranks


def test_error_by_chance_is_that_of_answers_drawn_from_the_confidences():
    mean, high = by_chance(np.full(100, 0.5), 1, np.random.default_rng(0), draws=2000)
    # One bin: |binomial(100, 1/2) / 100 - 1/2|, whose mean is about sqrt(2 / pi) * 0.05.
    assert mean == pytest.approx(math.sqrt(2 / math.pi) * 0.05, rel=0.05)
    assert high == pytest.approx(0.1, abs=0.011)
    assert by_chance(np.array([0.0, 1.0]), 15, np.random.default_rng(0)) == (0, 0)


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(StageError, match="finite logits"):
        scores([(np.array([[0.0, np.inf]]), np.array([0]))], 2, 15)


def test_numbers_of_bins_out_of_range():
    with pytest.raises(ConfigError, match=r"confusion\.other_bins"):
        Confusion(other_bins=(10, 0))
