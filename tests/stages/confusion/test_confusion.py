import numpy as np
import pytest
from sklearn import metrics

from convaudit.stages.confusion.calibration import calibration
from convaudit.stages.confusion.matrix import (
    best_order,
    confused_pairs,
    confusion_matrix,
    precision,
    recall,
    symmetric_pairs,
)
from convaudit.stages.confusion.stage import Confusion
from convaudit.stages.errors import ConfigError, StageError

from ...stored_fake import StoredFake, codes_of, make_subject, settle, values_of

LABEL = np.array([0] * 5 + [1] * 4 + [2] * 3)
ANSWER = np.array([0, 0, 0, 1, 1, 1, 1, 2, 0, 2, 2, 1])
#: Rows are labels; no two off-diagonal entries that a transposition would swap are alike.
BY_HAND = [[3, 2, 0], [1, 2, 1], [0, 1, 2]]


def answers(n=300, n_class=4, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, n_class, n)
    wrong = rng.random(n) < 0.1 + 0.15 * label
    return label, np.where(wrong, (label + 1 + rng.integers(0, 2, n)) % n_class, label)


def audit(label, predicted, confidence=None, class_names=None, **settings):
    confidence = np.linspace(0.5, 1, len(label)) if confidence is None else np.asarray(confidence)
    names = class_names or ("ant", "bee", "cat", "dog")[: max(max(label), max(predicted), 1) + 1]
    predicted = np.asarray(predicted)
    logit = np.zeros((len(label), len(names)), np.float32)
    logit[np.arange(len(label)), predicted] = 1 + confidence
    logit[predicted < 0] = np.nan
    stored = StoredFake(
        {
            "predictions/logit": logit,
            "predictions/predicted": predicted.astype(np.int32),
            "predictions/confidence": np.where(predicted < 0, np.nan, confidence).astype(np.float32),
        }
    )
    return settle(Confusion(**settings), make_subject(label, class_names=names), stored, []), stored


def test_matrix_by_hand_has_labels_in_rows():
    matrix = confusion_matrix(LABEL, ANSWER, 3)
    assert matrix.tolist() == BY_HAND
    np.testing.assert_allclose(recall(matrix), [3 / 5, 2 / 4, 2 / 3])
    np.testing.assert_allclose(precision(matrix), [3 / 4, 2 / 5, 2 / 3])


@pytest.mark.parametrize("seed", range(4))
def test_matrix_recall_and_precision_agree_with_scikit_learn(seed):
    label, answer = answers(seed=seed)
    matrix = confusion_matrix(label, answer, 6)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(label, answer, labels=range(6)))
    expected = metrics.precision_recall_fscore_support(label, answer, labels=range(6), zero_division=np.nan)
    np.testing.assert_allclose(precision(matrix), expected[0])
    np.testing.assert_allclose(recall(matrix), expected[1])
    assert np.isnan(recall(matrix)[4:]).all()


def test_renaming_the_classes_renames_the_matrix():
    label, answer = answers()
    order = np.array([2, 0, 3, 1])
    renamed = confusion_matrix(order[label], order[answer], 4)
    np.testing.assert_array_equal(renamed[np.ix_(order, order)], confusion_matrix(label, answer, 4))


def test_pairs_are_directed_sorted_and_end_where_confusion_ends():
    matrix = np.array([[9, 2, 5], [5, 9, 0], [0, 1, 9]])
    assert confused_pairs(matrix, 9).tolist() == [[0, 2], [1, 0], [0, 1], [2, 1]]
    assert confused_pairs(matrix, 2).tolist() == [[0, 2], [1, 0]]
    assert confused_pairs(np.diag([3, 2, 1]), 4).shape == (0, 2)


def test_pairs_come_with_their_most_confident_images():
    confidence = [0.9] * 3 + [0.6, 0.8, 0.9, 0.9, 0.7, 0.5, 0.9, 0.9, 0.4]
    summary, stored = audit(LABEL, ANSWER, confidence, pairs=6, examples=1)
    assert stored["confusion/pair"].tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [-1, -1], [-1, -1]]
    assert stored["confusion/pair_count"].tolist() == [2, 1, 1, 1, -1, -1]
    assert [pair["images"] for pair in summary.notes["pairs"]] == [[4], [8], [7], [11]]
    assert summary.notes["pairs"][0]["share"] == 2 / 5


def test_symmetric_pairs_add_both_ways():
    matrix = np.array([[9, 2, 5], [5, 9, 0], [0, 1, 9]])
    assert symmetric_pairs(matrix, 9).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert symmetric_pairs(matrix, 9).tolist() == symmetric_pairs(matrix.T, 9).tolist()
    assert symmetric_pairs(np.diag([3, 2, 1]), 4).shape == (0, 2)


def test_symmetric_pairs_come_with_shares_bounds_and_images_of_both_ways():
    confidence = [0.9] * 3 + [0.6, 0.8, 0.9, 0.9, 0.7, 0.5, 0.9, 0.9, 0.4]
    summary, stored = audit(LABEL, ANSWER, confidence, pairs=4, examples=2)
    assert stored["confusion/symmetric"].tolist() == [[0, 1], [1, 2], [-1, -1], [-1, -1]]
    assert stored["confusion/symmetric_count"].tolist() == [3, 2, -1, -1]
    first = summary.notes["symmetric"][0]
    assert (first["counts"], first["share"], first["images"]) == ([2, 1], 3 / 9, [4, 3])
    assert summary.notes["symmetric"][1]["images"] == [7, 11]
    for row, n in ((first, 9), (summary.notes["pairs"][0], 5)):
        for bound in row["bounds"]:
            assert abs(row["share"] - bound) == pytest.approx(1.959963984540054 * np.sqrt(bound * (1 - bound) / n))


def test_worst_recall_has_the_bounds_of_its_own_label():
    summary, _ = audit(LABEL, ANSWER, min_support=4)
    worst = next(m for m in summary.measurements if m.name == "confusion/worst_recall")
    assert (worst.value, worst.n) == (0.5, 4)
    assert "bee" in worst.meaning
    for bound in (worst.low, worst.high):
        # Wilson's bounds are the shares p for which |observed - p| is z standard deviations.
        assert abs(0.5 - bound) == pytest.approx(1.959963984540054 * np.sqrt(bound * (1 - bound) / 4))
    assert worst.low < 0.5 < worst.high


def test_labels_with_few_images_cannot_be_the_worst():
    summary, _ = audit(LABEL, ANSWER, min_support=5)
    assert values_of(summary)["confusion/worst_recall"] == 3 / 5
    assert "bee, cat" in codes_of(summary)["confusion/few-images"].detail
    summary, _ = audit(LABEL, ANSWER, min_support=6)
    assert "confusion/worst_recall" not in values_of(summary)
    assert "no label has 6 images" in summary.notes["not_applicable"]["confusion/worst_recall"]


def test_mean_recall_is_balanced_accuracy():
    label, answer = answers()
    summary, _ = audit(label, answer)
    assert values_of(summary)["confusion/mean_recall"] == pytest.approx(metrics.balanced_accuracy_score(label, answer))


def ece(confidence, right, bins):
    """Bins as intervals, one after the other."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c == 1.0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_is_that_of_a_loop_over_bins(bins):
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.random(200), [0.0, 1.0, 1.0, 0.25, 0.5]])
    right = rng.random(205) < confidence**2
    found = calibration(confidence, right, bins)
    assert found.error == pytest.approx(ece(confidence.tolist(), right.tolist(), bins))
    assert found.count.sum() == 205


def test_calibration_by_hand_with_certainty_in_the_last_bin():
    found = calibration(np.array([1.0, 1.0, 0.6, 0.1]), np.array([True, False, True, False]), 2)
    assert found.count.tolist() == [1, 3]
    np.testing.assert_allclose(found.accuracy, [0, 2 / 3])
    np.testing.assert_allclose(found.confidence, [0.1, 2.6 / 3])
    assert found.error == pytest.approx(0.25 * 0.1 + 0.75 * 0.2)
    assert np.isnan(calibration(np.array([0.9]), np.array([True]), 2).accuracy[0])


@pytest.mark.parametrize("wrong", [1.0001, -0.1, np.nan])
def test_confidence_that_is_no_probability_is_an_error(wrong):
    with pytest.raises(StageError, match="expected confidences"):
        calibration(np.array([0.5, wrong]), np.array([True, True]), 3)


def test_bad_and_unlabelled_images_are_left_out_and_counted():
    label, predicted = LABEL.copy(), ANSWER.copy()
    label[[0, 5]] = -1
    predicted[[1, 7, 9]] = -1
    summary, stored = audit(label, predicted)
    keep = (label >= 0) & (predicted >= 0)
    np.testing.assert_array_equal(
        stored["confusion/matrix"], metrics.confusion_matrix(LABEL[keep], ANSWER[keep], labels=range(3))
    )
    left_out = [summary.notes[f"images_without_{what}"] for what in ("label", "prediction")]
    assert [summary.notes["n"], *left_out] == [7, 2, 3]


def test_data_without_labels_are_not_applicable():
    summary, stored = audit([-1] * 4, [0, 1, 1, 0], class_names=("ant", "bee"))
    assert summary.notes["status"] == "not applicable"
    assert not summary.measurements
    assert stored["confusion/matrix"].sum() == 0


def test_absent_labels_have_unknown_recall_and_are_told():
    summary, _ = audit([0, 0, 1, 1], [0, 2, 1, 1], class_names=("ant", "bee", "cat"), min_support=1)
    assert [row["recall"] for row in summary.notes["classes"]] == [0.5, 1.0, None]
    assert [row["precision"] for row in summary.notes["classes"]] == [1.0, 1.0, 0.0]
    assert "cat" in codes_of(summary)["confusion/absent-label"].detail


def test_classes_that_are_never_answered_are_told():
    summary, _ = audit([0] * 20 + [1] * 20 + [2] * 20, [0] * 20 + [1] * 30 + [0] * 10)
    finding = codes_of(summary)["confusion/never-predicted"]
    assert finding.severity == "error"
    assert "cat" in finding.title
    assert "cat" in finding.detail


def test_classes_that_are_mostly_missed_are_told_with_what_is_answered_instead():
    summary, _ = audit([0] * 30 + [1] * 30 + [2] * 30, [0] * 30 + [1] * 5 + [2] * 20 + [0] * 5 + [2] * 30)
    finding = codes_of(summary)["confusion/mostly-missed"]
    assert finding.severity == "warning"
    assert finding.title == "1 class is mostly missed: bee"
    assert "bee is right in 5 of 30, and answered as cat in 20" in finding.detail
    assert set(finding.images) <= set(range(35, 60))
    # Four of ten is below one half, but not beyond doubt.
    summary, _ = audit([0] * 10 + [1] * 10, [0] * 10 + [1] * 4 + [0] * 6)
    assert "confusion/mostly-missed" not in codes_of(summary)


def test_answers_at_chance_are_told_first_and_instead_of_what_follows_from_them():
    summary, _ = audit([0] * 20 + [1] * 20, [0] * 40, class_names=("ant", "bee", "cat"))
    first = summary.findings[0]
    assert (first.code, first.severity) == ("confusion/at-chance", "error")
    assert "ant (100.0%)" in first.detail
    assert set(codes_of(summary)) == {"confusion/at-chance", "confusion/absent-label"}


def test_always_answering_the_majority_is_chance_even_when_accurate():
    label = np.where(np.arange(400) % 20 == 0, 1, 0)
    assert "confusion/at-chance" in codes_of(audit(label, np.zeros(400, int))[0])
    assert "confusion/at-chance" not in codes_of(audit(label, label)[0])


def test_one_label_alone_says_nothing_of_chance():
    assert "confusion/at-chance" not in codes_of(audit(np.zeros(40, int), np.zeros(40, int))[0])


def test_two_swapped_classes_of_many_are_an_order():
    label = np.repeat(np.arange(10), 20)
    swap = np.array([0, 1, 7, 3, 4, 5, 6, 2, 8, 9])
    names = tuple("abcdefghij")
    finding = codes_of(audit(label, swap[label], class_names=names)[0])["confusion/class-order"]
    assert "c as h, h as c" in finding.detail
    # One class that is taken for another is no order: nothing takes its place.
    merged = np.where(label == 2, 7, label)
    assert "confusion/class-order" not in codes_of(audit(label, merged, class_names=names)[0])


def test_one_image_per_class_is_too_few_to_doubt_the_order():
    label = np.arange(60)
    predicted = np.random.default_rng(0).integers(0, 60, 60)
    names = tuple(map(str, range(60)))
    assert best_order(confusion_matrix(label, predicted, 60))[1] > 0.5
    assert "confusion/class-order" not in codes_of(audit(label, predicted, class_names=names)[0])


def test_classes_in_another_order_are_told():
    label, answer = answers()
    order = np.array([2, 0, 3, 1])
    matrix = confusion_matrix(label, order[answer], 4)
    found, share = best_order(matrix)
    assert found.tolist() == order.tolist()
    assert share == pytest.approx((label == answer).mean())
    summary, _ = audit(label, order[answer])
    assert "ant as cat" in codes_of(summary)["confusion/class-order"].detail
    summary, _ = audit(label, answer)
    assert "confusion/class-order" not in codes_of(summary)


@pytest.mark.parametrize("key", ["bins", "pairs", "examples", "min_support"])
def test_settings_out_of_range(key):
    with pytest.raises(ConfigError, match=rf"confusion\.{key}"):
        Confusion(**{key: 0})
