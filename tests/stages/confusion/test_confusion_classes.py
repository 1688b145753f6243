import math

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn import metrics

from convaudit.stages.confusion.classes import per_class, top_rows
from convaudit.stages.confusion.matrix import confusion_matrix
from convaudit.stages.confusion.probabilities import scores
from convaudit.stages.confusion.stage import Confusion

from ...stored_fake import StoredFake, make_subject, settle, values_of

MATRIX = np.array([[3, 2, 0, 0], [1, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]])


def audit(label, logit, names):
    logit = np.asarray(logit, np.float32)
    value = np.exp(logit - logit.max(1, keepdims=True), dtype=np.float64)
    stored = StoredFake(
        {
            "predictions/logit": logit,
            "predictions/predicted": logit.argmax(1).astype(np.int32),
            "predictions/confidence": (1 / value.sum(1)).astype(np.float32),
        }
    )
    return settle(Confusion(), make_subject(label, class_names=names), stored, []), stored


def score_bound(right, n, side):
    """Wilson's bound as the root of its own equation: the share that lies 1.96 standard deviations away."""
    z, share = 1.959963984540054, right / n
    if (side, right) in ((-1, 0), (1, n)):
        return share
    return brentq(
        lambda p: (share - p) ** 2 * n - z * z * p * (1 - p), *((1e-9, share) if side < 0 else (share, 1 - 1e-9))
    )


def test_f1_by_hand_and_its_interval_by_the_jaccard_index():
    found = per_class(MATRIX)
    np.testing.assert_allclose(found.f1, [6 / 9, 4 / 9, 4 / 6, np.nan])
    assert np.isnan(found.f1_bounds[3]).all()
    for place, (right, union) in enumerate([(3, 6), (2, 7), (2, 4)]):
        low, high = (score_bound(right, union, side) for side in (-1, 1))
        expected = [2 * low / (1 + low), 2 * high / (1 + high)]
        np.testing.assert_allclose(found.f1_bounds[place], expected, atol=1e-9)
        assert expected[0] < found.f1[place] < expected[1]


def test_intervals_of_recall_and_precision_rest_on_their_own_counts():
    found = per_class(MATRIX)
    for side, column in ((-1, 0), (1, 1)):
        assert found.recall_bounds[0, column] == pytest.approx(score_bound(3, 5, side))
        assert found.precision_bounds[0, column] == pytest.approx(score_bound(3, 4, side))
        assert found.precision_bounds[1, column] == pytest.approx(score_bound(2, 5, side))


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 7, 200)
    answer = np.where(rng.random(200) < 0.4, rng.integers(0, 5, 200), label)
    found = per_class(confusion_matrix(label, answer, 9))
    expected = metrics.f1_score(label, answer, labels=range(7), average=None)
    np.testing.assert_allclose(found.f1[:7], expected)
    assert np.isnan(found.f1[7:]).all()


def test_top_k_is_that_of_scikit_learn_and_of_a_sort():
    rng = np.random.default_rng(0)
    logit, label = rng.normal(size=(120, 12)), rng.integers(0, 12, 120)
    for row in top_rows(scores([(logit, label)], 12, 15)):
        expected = metrics.top_k_accuracy_score(label, logit, k=row["k"], labels=range(12))
        by_sort = np.mean([label[i] in np.argsort(-logit[i], kind="stable")[: row["k"]] for i in range(120)])
        assert row["share"] == pytest.approx(expected)
        assert row["share"] == pytest.approx(by_sort)
        assert row["bounds"][0] < row["share"] < row["bounds"][1]
    assert [row["k"] for row in top_rows(scores([(logit, label)], 12, 15))] == [1, 2, 3, 5, 10]


def test_equal_logits_put_the_earlier_class_first():
    counts = scores([(np.zeros((3, 4)), np.array([0, 2, 3]))], 4, 15).rank_count
    assert counts.tolist() == [1, 0, 1, 1]


def test_classes_named_by_numbers_keep_the_order_of_the_logits():
    """Sorted as text, "10" would come before "2"."""
    names = tuple(map(str, range(12)))
    label = np.repeat(np.arange(12), np.arange(12) + 2)
    logit = np.eye(12)[label] * 5
    logit[label == 10] = np.eye(12)[2] * 5
    summary, stored = audit(label, logit, names)
    rows = {row["name"]: row for row in summary.notes["classes"]}
    assert [rows[str(c)]["support"] for c in range(12)] == [c + 2 for c in range(12)]
    assert rows["10"]["recall"] == 0
    assert rows["2"]["precision"] == 4 / 16
    assert summary.notes["never_predicted"] == [10]
    assert stored["confusion/pair"][0].tolist() == [10, 2]
    np.testing.assert_allclose(stored["confusion/recall"], [1] * 10 + [0, 1])
    np.testing.assert_allclose(stored["confusion/f1"][[2, 10]], [2 * 4 / (4 + 16), 0])


def test_measurements_of_classes():
    names = tuple("abcdefg")
    label = np.array([0, 0, 1, 2, 3, 4, 4])
    logit = np.eye(7)[[0, 0, 1, 1, 3, 4, 0]] * 2.0
    summary, _ = audit(label, logit, names)
    values = values_of(summary)
    f1 = metrics.f1_score(label, logit.argmax(1), labels=range(5), average=None, zero_division=0.0)
    assert values["confusion/mean_f1"] == pytest.approx(f1.mean())
    assert values["confusion/never_predicted"] == 1
    assert values["confusion/top5_accuracy"] == 1
    assert (summary.notes["never_predicted"], summary.notes["absent"]) == ([2], [5, 6])


def test_an_absent_class_has_unknown_shares_and_takes_part_in_no_mean():
    summary, stored = audit(np.array([0, 1]), np.eye(3)[[0, 1]], ("a", "b", "c"))
    assert summary.notes["classes"][2]["f1"] is None
    assert math.isnan(stored["confusion/recall"][2])
    assert np.isnan(stored["confusion/recall_bounds"][2]).all()
    assert values_of(summary)["confusion/mean_f1"] == 1
    assert "confusion/top5_accuracy" not in values_of(summary)
