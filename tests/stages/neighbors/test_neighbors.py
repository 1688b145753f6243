import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.neighbors.duplicates import duplicate_groups, in_conflict
from convaudit.stages.neighbors.stage import Neighbors
from convaudit.stages.neighbors.vote import agreement, triangle, vote

from ...stored_fake import StoredFake, codes_of, make_subject, run_leaf, values_of, vector_layer


def stored_for(features, predicted, status=None, confidence=None):
    n = len(features)
    return StoredFake(
        {
            "features/fc.input": np.asarray(features, np.float32),
            "predictions/predicted": np.asarray(predicted, np.int32),
            "predictions/confidence": np.full(n, 0.9, np.float32) if confidence is None else confidence,
            "predictions/status": np.zeros(n, np.int8) if status is None else np.asarray(status, np.int8),
        }
    )


def clouds(n=60, n_class=3, spread=0.8, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % n_class
    return rng.normal(size=(n, 5)) * spread + rng.normal(size=(n_class, 5))[label] * 2, label


def test_vote_by_hand():
    label = np.array([[2, 1, 1, 0], [2, 1, 1, 2], [-1, 3, 0, -1], [-1, -1, -1, -1], [0, 1, 2, 3], [5, 5, 4, 4]])
    # 1 twice; tie of 2 and 1, nearest is 2; unlabelled ones do not vote; nobody votes; all tie; tie.
    assert vote(label).tolist() == [1, 2, 3, -1, 0, 5]


def test_agreement_by_hand():
    share = agreement(np.array([[1, 1, 0], [1, -1, 0], [-1, -1, -1], [0, 0, 0]]), np.array([1, 0, 0, -1]))
    np.testing.assert_array_equal(share, [2 / 3, 1 / 2, np.nan, np.nan])


def test_triangle_by_hand():
    head = np.array([0, 0, 1, 1, 1, 0, -1])
    sides = triangle(np.array([0, 0, 0, 0, 0, -1, 0]), head, np.array([0, 1, 0, 1, 2, 0, 0]))
    assert sides.judged.tolist() == [True] * 5 + [False] * 2
    for position, side in enumerate(("both_right", "head_only", "neighbors_only", "suspect", "hard")):
        assert np.flatnonzero(getattr(sides, side)).tolist() == [position]


def test_duplicates_by_hand():
    groups = duplicate_groups(["a", "b", "", "a", "c", "b", "", "a"])
    assert groups == ((0, 3, 7), (1, 5))
    assert in_conflict(groups, [1, 2, 0, 1, 0, 3, 0, -1], -1) == ((1, 5),)


@pytest.mark.parametrize("shard", [4, 7, 60])
def test_vote_and_accuracy_agree_with_leave_one_out_by_scikit_learn(shard):
    features, label = clouds()
    leaf, stored = Neighbors(metric="euclidean", k=5), stored_for(features, label)
    summary = run_leaf(leaf, make_subject(label, layers=[vector_layer()], shard=shard), stored)
    right = 0
    for i in range(len(label)):
        rest = np.arange(len(label)) != i
        model = KNeighborsClassifier(5, algorithm="brute").fit(features[rest].astype(np.float32), label[rest])
        distance, index = model.kneighbors(features[i : i + 1].astype(np.float32))
        np.testing.assert_array_equal(stored["neighbors/index"][i], np.flatnonzero(rest)[index[0]])
        np.testing.assert_allclose(stored["neighbors/distance"][i], distance[0], rtol=1e-5)
        votes = np.bincount(label[rest][index[0]], minlength=3)
        if (votes == votes.max()).sum() == 1:
            assert stored["neighbors/predicted"][i] == model.predict(features[i : i + 1].astype(np.float32))[0]
        right += stored["neighbors/predicted"][i] == label[i]
    assert values_of(summary)["neighbors/accuracy"] == right / len(label)


def test_triangle_counts_and_images_reach_the_notes():
    # Two tight groups of four; image 3 is labelled 1 in the midst of group 0, where head and neighbors say 0.
    features = np.array([[1, 0], [1, 0.01], [1, 0.02], [1, 0.03], [0, 1], [0.01, 1], [0.02, 1], [0.03, 1]])
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    head = np.array([0, 1, 0, 0, 1, 1, 1, 0])
    summary = run_leaf(
        Neighbors(k=3), make_subject(label, layers=[vector_layer(features=2)]), stored_for(features, head)
    )
    assert summary.notes["triangle"] == {"both_right": 5, "head_only": 0, "neighbors_only": 2, "suspect": 1, "hard": 0}
    assert summary.notes["images"]["suspect"] == [3]
    assert set(summary.notes["images"]["neighbors_only"]) == {1, 7}
    assert codes_of(summary)["neighbors/against-labels"].images == (3,)
    values = values_of(summary)
    assert values["neighbors/accuracy"] == 7 / 8
    assert values["neighbors/gap"] == pytest.approx(7 / 8 - 5 / 8)
    assert values["neighbors/suspect_fraction"] == 1 / 8
    purity = {row["class"]: row["purity"] for row in summary.notes["purity"]}
    assert purity == {0: pytest.approx(2 / 3), 1: pytest.approx((0 + 4 * 1) / 5)}


def test_bad_images_have_no_neighbors_and_are_nobodys():
    features, label = clouds(24)
    features[[5, 11]] = np.nan
    status = np.zeros(24)
    status[[5, 11]] = 3
    predicted = np.where(status > 0, -1, label)
    stored = stored_for(features, predicted, status)
    summary = run_leaf(Neighbors(k=4), make_subject(label, layers=[vector_layer()]), stored)
    assert (stored["neighbors/index"][[5, 11]] == -1).all()
    assert np.isnan(stored["neighbors/distance"][[5, 11]]).all()
    assert (stored["neighbors/predicted"][[5, 11]] == -1).all()
    rest = np.delete(stored["neighbors/index"], [5, 11], axis=0)
    assert not np.isin(rest, [5, 11, -1]).any()
    assert summary.notes["n"] == 22
    assert "neighbors/no-direction" not in codes_of(summary)


def test_zero_vectors_are_a_finding_under_cosine_and_points_under_euclidean():
    features, label = clouds(24)
    features[7] = 0
    layers = [vector_layer()]
    stored = stored_for(features, label)
    summary = run_leaf(Neighbors(k=3), make_subject(label, layers=layers), stored)
    assert codes_of(summary)["neighbors/no-direction"].images == (7,)
    assert stored["neighbors/index"][7].tolist() == [-1] * 3
    assert not (stored["neighbors/index"] == 7).any()
    stored = stored_for(features, label)
    summary = run_leaf(Neighbors(k=3, metric="euclidean"), make_subject(label, layers=layers), stored)
    assert "neighbors/no-direction" not in codes_of(summary)
    assert (stored["neighbors/index"][7] >= 0).all()


def test_duplicates_with_other_labels_or_splits_are_findings():
    features, label = clouds(12)
    content = [f"{i}" for i in range(12)]
    content[4], content[9], content[8] = "0", "3", "2"
    split = ["train"] * 8 + ["test"] * 4
    subject = make_subject(label, layers=[vector_layer()], content=tuple(content), split=tuple(split))
    assert (label[0], label[4]) == (0, 1)
    assert (label[3], label[9]) == (0, 0)
    summary = run_leaf(Neighbors(k=3), subject, stored_for(features, label))
    assert codes_of(summary)["neighbors/conflicting-duplicates"].images == (0, 4)
    assert codes_of(summary)["neighbors/leaking-duplicates"].images == (2, 8, 3, 9)
    assert values_of(summary)["neighbors/conflict_count"] == 1
    assert values_of(summary)["neighbors/duplicate_count"] == 3


def test_unlabelled_data_have_neighbors_but_no_verdict():
    features, _ = clouds(12)
    stored = stored_for(features, np.zeros(12))
    summary = run_leaf(Neighbors(k=3), make_subject(np.full(12, -1), layers=[vector_layer()]), stored)
    assert summary.notes["status"] == "not applicable"
    needs_labels = {f"neighbors/{name}" for name in ("accuracy", "gap", "suspect_fraction", "purity")}
    assert not needs_labels & set(values_of(summary))
    assert values_of(summary)["neighbors/near_conflict_count"] == 0
    assert (stored["neighbors/index"] >= 0).all()
    assert (stored["neighbors/predicted"] == -1).all()


@pytest.mark.parametrize("k", [12, 13, 200])
def test_more_neighbors_than_images_is_a_config_error(k):
    _, label = clouds(12)
    with pytest.raises(ConfigError, match=rf"neighbors\.k: {k} .* got 12"):
        Neighbors(k=k).writes(make_subject(label, layers=[vector_layer()]))


def test_more_neighbors_than_usable_images_is_a_config_error():
    features, label = clouds(12)
    stored = stored_for(features, label, status=[1, 1, 1] + [0] * 9)
    with pytest.raises(ConfigError, match="got 9"):
        run_leaf(Neighbors(k=9), make_subject(label, layers=[vector_layer()]), stored)


def test_features_that_are_not_stored_name_the_setting():
    features, label = clouds(12)
    stored = stored_for(features, label)
    del stored.arrays["features/fc.input"]
    with pytest.raises(StageError, match=r"features\.layers"):
        run_leaf(Neighbors(k=3), make_subject(label, layers=[vector_layer()]), stored)


@pytest.mark.parametrize("setting", [{"k": 0}, {"examples": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match="expected 1 or more"):
        Neighbors(**setting)
