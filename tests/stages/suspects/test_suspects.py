"""The two signals, their rank, and everything that keeps a label from being judged."""

import numpy as np
import pytest

from convaudit.stages.errors import ConfigError
from convaudit.stages.suspects.ranking import scored
from convaudit.stages.suspects.stage import Suspects

from ...stored_fake import codes_of, values_of
from .suspect_cases import among, judge, sure


def test_by_hand():
    # Two groups of four. Image 3 is labelled 1 amid group 0 and answered 0: both signals. Image 7 is labelled 0 and
    # answered 0 amid group 1: its neighbors alone.
    label = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    logit = np.log([[0.8, 0.2], [0.9, 0.1], [0.7, 0.3], [0.99, 0.01], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45]])
    summary, arrays = judge(Suspects(min_support=1), logit, label, among([0] * 4 + [1] * 4, 3))
    np.testing.assert_allclose(arrays["threshold"], [(0.8 + 0.9 + 0.7 + 0.55) / 4, (0.01 + 0.9 + 0.8 + 0.7) / 4])
    np.testing.assert_allclose(arrays["self_confidence"], [0.8, 0.9, 0.7, 0.01, 0.9, 0.8, 0.7, 0.55], atol=1e-6)
    np.testing.assert_allclose(arrays["disagreement"], [1 / 3, 1 / 3, 1 / 3, 1, 1 / 3, 1 / 3, 1 / 3, 1], atol=1e-6)
    assert arrays["signal"].tolist() == [0, 0, 0, 3, 0, 0, 0, 2]
    assert arrays["proposal"].tolist() == [-1, -1, -1, 0, -1, -1, -1, -1]
    assert arrays["class_count"].tolist() == [0, 1]
    # Of 8, image 3: 7.5 have a larger or equal self-confidence, 6 + 1 a smaller or equal disagreement.
    assert arrays["score"][3] == pytest.approx((7.5 / 8 + 7 / 8) / 2)
    assert arrays["rank"][[3, 7]].tolist() == [1, 2]
    assert sorted(arrays["rank"]) == list(range(1, 9))
    values = values_of(summary)
    assert values["suspects/count"] == 1
    assert values["suspects/share"] == 1 / 8
    assert values["suspects/neighbors_only"] == 1
    assert summary.notes["limits"]["by_chance"] == 1 * 2 / 8
    finding = codes_of(summary)["suspects/labels"]
    assert finding.images == (3,)
    assert "image3" in finding.detail
    assert "Largest share: 25.0% of class1 (1 of 4)" in finding.detail


def test_more_signals_come_first_whatever_the_score_and_ties_go_by_position():
    code = np.array([1, 3, 0, 3, -1, 2], np.int8)
    own, others = np.array([0.0, 0.4, 0.9, 0.4, np.nan, 0.9]), np.array([1.0, 0.6, 0.0, 0.6, np.nan, 1.0])
    score, rank = scored(code, own, others)
    assert rank.tolist() == [3, 1, 5, 2, -1, 4]
    assert score[0] > score[1] == score[3]
    assert np.isnan(score[4])


@pytest.mark.parametrize("shard", [1, 7, 60])
def test_planted_labels_are_found_in_any_shards(shard):
    true = np.arange(60) % 4
    label = true.copy()
    label[[3, 17, 30]] = (label[[3, 17, 30]] + 1) % 4
    summary, arrays = judge(Suspects(), sure(true, 4, noise=0.0), label, among(true), shard=shard)
    assert np.flatnonzero(arrays["signal"] == 3).tolist() == [3, 17, 30]
    assert arrays["proposal"][[3, 17, 30]].tolist() == true[[3, 17, 30]].tolist()
    assert values_of(summary)["suspects/estimated"] == 3
    pairs = [[int(((label == a) & (true == b)).sum()) for b in range(4)] for a in range(4)]
    assert arrays["joint"].tolist() == pairs


def test_classes_in_another_order_give_the_same_images():
    true = np.arange(66) % 11
    label = true.copy()
    label[[5, 20, 41]] = [0, 10, 2]
    logit, turn = sure(true, 11), np.roll(np.arange(11), 4)
    _, arrays = judge(Suspects(), logit, label, among(true))
    turned = np.empty_like(logit)
    turned[:, turn] = logit
    _, other = judge(Suspects(), turned, turn[label], among(true))
    for path in ("signal", "rank"):
        np.testing.assert_array_equal(arrays[path], other[path])
    np.testing.assert_array_equal(
        turn[arrays["proposal"]][arrays["signal"] == 3], other["proposal"][other["signal"] == 3]
    )


def test_two_proposals_that_differ_are_no_proposal():
    label = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    logit = sure([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], 3, strength=9, noise=0)
    index = among([0, 0, 0, 2, 1, 1, 1, 2, 2, 2], 3)
    _, arrays = judge(Suspects(min_support=1), logit, label, index)
    assert arrays["signal"][3] == 3
    assert arrays["proposal"][3] == -1


def test_clean_labels_of_a_network_that_knows_give_none():
    true = np.arange(90) % 3
    summary, arrays = judge(Suspects(), sure(true, 3), true, among(true))
    assert not (arrays["signal"] == 3).any()
    assert values_of(summary)["suspects/count"] == 0
    assert summary.findings == ()


def test_what_cannot_be_judged_is_said_and_counted_once():
    true = np.arange(40) % 4
    label, logit, index, status = true.copy(), sure(true, 4), among(true), np.zeros(40)
    label[[0, 4]] = -1
    logit[5, 2] = np.nan
    index[6] = -1  # features that are not finite have no neighbors
    status[7], logit[7], index[7] = 2, np.nan, -1
    summary, arrays = judge(Suspects(), logit, label, index, status)
    assert np.flatnonzero(arrays["signal"] == -1).tolist() == [0, 4, 5, 6, 7]
    for path in ("score", "rank"):
        assert np.flatnonzero(~(arrays[path] > 0)).tolist() == [0, 4, 5, 6, 7]
    assert np.isnan(arrays["self_confidence"][[0, 4, 5, 7]]).all()
    assert list(summary.notes["unjudged"].values()) == [1, 2, 1, 1]
    finding = codes_of(summary)["suspects/not-judged"]
    assert finding.images == (0, 4, 5, 6)
    assert finding.title.startswith("The labels of 5 of 40")
    assert "1 could not be used" in finding.detail
    assert "2 without a label" in finding.detail


@pytest.mark.parametrize(
    ("label", "n_class"),
    [([0], 2), ([1] * 12, 3), ([-1] * 12, 3), ([0] * 5, 1)],
    ids=["one", "one class", "none", "K=1"],
)
def test_nothing_to_hold_a_label_against_is_said(label, n_class):
    label = np.array(label)
    summary, arrays = judge(Suspects(), np.zeros((len(label), n_class)), label, among(np.zeros(len(label))))
    assert summary.measurements == ()
    assert summary.notes["status"] == "not applicable"
    assert codes_of(summary).keys() == {"suspects/not-judged"}
    assert not (arrays["signal"] == 3).any()


def test_equal_features_and_equal_probabilities_accuse_nobody_of_two_things():
    label = np.arange(30) % 3
    index = np.array([[j for j in range(6) if j != i][:5] for i in range(30)])
    summary, arrays = judge(Suspects(), np.zeros((30, 3)), label, index)
    assert set(arrays["signal"]) <= {0, 2}
    assert values_of(summary)["suspects/count"] == 0


def test_two_classes_with_their_labels_swapped_are_told_though_neighbors_agree():
    true = np.arange(80) % 4
    label = np.array([1, 0, 2, 3])[true]
    summary, arrays = judge(Suspects(), sure(true, 4), label, among(true))
    assert not (arrays["signal"] == 3).any()
    finding = codes_of(summary)["suspects/moved-classes"]
    assert finding.severity == "warning"
    assert "20 of 20 images labelled class0 are answered class1" in finding.detail
    assert "20 of 20 images labelled class1 are answered class0" in finding.detail


def test_a_class_that_is_labelled_as_another_is_told_though_confident_learning_is_silent():
    true = np.arange(80) % 4
    label = np.where(true == 0, 1, true)
    summary, arrays = judge(Suspects(), sure(true, 4), label, among(true))
    assert np.isnan(arrays["threshold"][0])
    assert not (arrays["signal"] == 3).any()
    assert [row["absent"] for row in summary.notes["moved"]] == [True]
    finding = codes_of(summary)["suspects/moved-classes"]
    assert "20 of 40 images labelled class1 are answered class0, a class that no label names" in finding.detail


def test_a_class_never_predicted_and_one_never_labelled_do_not_upset_the_rest():
    true = np.arange(60) % 3
    logit = np.concatenate([sure(true, 3, noise=0.0), np.full((60, 2), -9.0)], axis=1)
    label = true.copy()
    label[0], label[1] = 3, 2
    _, arrays = judge(Suspects(), logit, label, among(true))
    assert np.flatnonzero(arrays["signal"] == 3).tolist() == [0, 1]
    assert np.isnan(arrays["threshold"]).tolist() == [False] * 4 + [True]


def test_a_network_at_chance_is_settled_first():
    rng = np.random.default_rng(3)
    label, kind = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    summary, _ = judge(Suspects(), sure(kind, 4, noise=2.0), label, rng.integers(0, 200, (200, 5)))
    finding = codes_of(summary)["suspects/labels"]
    assert finding.severity == "info"
    assert finding.detail.startswith("The network answers no better than chance")


@pytest.mark.parametrize(
    ("split", "said"), [(None, "not known whether"), ("test", "No image is of a training"), ("train", "20 images are")]
)
def test_what_the_splits_tell_of_training_is_noted(split, said):
    true = np.arange(40) % 4
    more = {} if split is None else {"split": (split,) * 20 + ("val",) * 20}
    summary, _ = judge(Suspects(), sure(true, 4), true, among(true), **more)
    assert said in summary.notes["limits"]["training"]


def test_slices_and_settings():
    true = np.arange(40) % 4
    label = true.copy()
    label[[1, 2, 3]] = (label[[1, 2, 3]] + 1) % 4
    camera = {"camera": ("b",) * 4 + ("a",) * 16 + ("c",) * 20}
    summary, _ = judge(Suspects(slice_values=2), sure(true, 4, noise=0.0), label, among(true), slices=camera)
    (told,) = summary.notes["slices"]
    assert told["values"][0] == {"value": "b", "n": 4, "suspects": 3}
    assert told["hidden"] == 1
    for key in ("min_support", "slice_values", "examples"):
        with pytest.raises(ConfigError, match=rf"suspects\.{key}: expected 1"):
            Suspects(**{key: 0})
