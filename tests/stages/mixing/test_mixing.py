"""Planted classes through the whole stage: who is blamed, and who is left alone."""

import numpy as np
import pytest

from convaudit.stages.errors import ConfigError
from convaudit.stages.mixing.stage import Mixing

from ...stored_fake import codes_of, values_of
from .mixed import clouds, planted, ring


def _rows(summary):
    return {tuple(row["classes"]): row for row in summary.notes["rows"]}


def test_classes_that_are_apart_and_told_apart_are_left_alone():
    features, label = clouds(ring(5), 40, 1.0)
    stored, summary = planted(features, label, label)
    assert not summary.findings
    measured = values_of(summary)
    assert [measured[f"mixing/{name}"] for name in ("head_problems", "representation_problems", "close_calls")] == [
        0
    ] * 3
    assert (stored["mixing/verdicts"][np.triu_indices(5, 1)] == 0).all()
    assert "mixing/agreement_separation" in summary.notes["not_applicable"], "no confusion, no order"


def test_a_head_that_collapses_two_classes_is_blamed():
    features, label = clouds(ring(5), 40, 1.0)
    predicted = np.where(label == 3, 1, label)
    stored, summary = planted(features, label, predicted, names=("a", "b", "c", "d", "e"))
    finding = codes_of(summary)["mixing/head-problem"]
    assert "b and d" in finding.title
    assert "40 of 80 images" in finding.detail
    assert set(label[list(finding.images)]) == {3}
    assert set(codes_of(summary)) == {"mixing/head-problem"}
    assert stored["mixing/pair"][0].tolist() == [1, 3]
    assert stored["mixing/verdict"][0] == 3
    assert _rows(summary)[1, 3]["taken"] == [0, 40]


def test_a_head_whose_rows_are_swapped_is_blamed():
    features, label = clouds(ring(6), 30, 1.0)
    swapped = np.select([label == 2, label == 4], [4, 2], label)
    stored, summary = planted(features, label, swapped)
    assert stored["mixing/pair"][0].tolist() == [2, 4]
    assert values_of(summary)["mixing/head_problems"] == 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_two_classes_with_the_same_features_are_a_problem_of_the_features(metric):
    centre = ring(5)
    centre[4] = centre[0]
    features, label = clouds(centre, 40, 1.0)
    predicted = label.copy()
    twins = np.flatnonzero((label == 0) | (label == 4))
    predicted[twins] = np.random.default_rng(1).choice([0, 4], len(twins))
    stored, summary = planted(features, label, predicted, metric=metric)
    assert set(codes_of(summary)) == {"mixing/representation-problem"}
    assert stored["mixing/pair"][0].tolist() == [0, 4]
    assert stored["mixing/separation"][0, 4] < 0.7
    assert 0.3 < _rows(summary)[0, 4]["crossed_share"] < 0.7
    assert stored["mixing/enrichment"][0, 4] == stored["mixing/enrichment"].T[0, 4] > 2
    assert summary.notes["rows"][0]["speaks"] == ["confusion", "separation", "neighbors"]
    assert stored["mixing/joint"][0] == 1


def test_two_classes_that_are_close_but_told_apart_are_a_close_call():
    centre = ring(5)
    centre[4] = centre[0] + [1.2, 0, 0, 0, 0, 0]
    features, label = clouds(centre, 60, 1.0)
    _, summary = planted(features, label, label)
    finding = codes_of(summary)["mixing/close-call"]
    assert finding.severity == "info"
    assert set(codes_of(summary)) == {"mixing/close-call"}
    assert set(label[list(finding.images)]) == {0, 4}
    assert summary.notes["rows"][0]["classes"] == [0, 4]


def test_two_classes_are_judged_without_others_to_compare_with():
    features, label = clouds(ring(2), 50, 1.0)
    for predicted, verdict in ((label, "apart"), (np.where(np.arange(100) % 3, label, 0), "head")):
        _, summary = planted(features, label, predicted)
        assert summary.notes["rows"][0]["verdict"] == verdict


def test_a_single_error_is_nothing():
    features, label = clouds(ring(4), 50, 1.0)
    predicted = label.copy()
    predicted[0] = (label[0] + 1) % 4
    assert not planted(features, label, predicted)[1].findings


def test_few_images_are_inconclusive_and_said():
    features, label = clouds(ring(3), 6, 1.0)
    stored, summary = planted(features, label, np.where(label == 0, 1, label))
    assert set(codes_of(summary)) == {"mixing/few-images"}
    assert not summary.measurements
    assert "mixing/head_problems" in summary.notes["not_applicable"]
    assert (stored["mixing/verdict"][:3] == 4).all()
    assert np.isnan(stored["mixing/rank"]).all()


def test_a_rare_class_is_inconclusive_and_the_others_are_judged():
    features, label = clouds(ring(4), 40, 1.0)
    kept = (label != 3) | (np.cumsum(label == 3) <= 4)
    features, label = features[kept], label[kept]
    stored, summary = planted(features, label, np.where(label == 3, 0, label))
    assert (stored["mixing/verdicts"][3, :3] == 4).all()
    assert (stored["mixing/verdicts"][0, 1:3] == 0).all()
    assert not summary.findings
    assert summary.notes["pairs_judged"] == 3


def test_absent_classes_and_unlabelled_images_take_no_part():
    features, label = clouds(ring(3), 40, 1.0)
    label = np.where(label == 2, 12, label)  # 13 classes, of which three have images
    predicted = np.where(label == 12, 1, label)
    lost = np.flatnonzero(label == 0)[:9]
    hidden = label.copy()
    hidden[lost] = -1
    stored, summary = planted(features, hidden, predicted, names=tuple(map(str, range(13))), pairs=50)
    assert "1 and 12" in codes_of(summary)["mixing/head-problem"].title
    assert stored["mixing/links"][2:12].sum() == 0
    assert np.isnan(stored["mixing/separation"][5]).all()
    assert summary.notes["pairs_judged"] == 3
    named = np.concatenate([stored["mixing/nearest"].ravel(), stored["mixing/taken"].ravel()])
    assert not np.isin(lost, named).any()


@pytest.mark.parametrize(("label", "reason"), [(np.zeros(20, int), "one class has"), (np.full(20, -1), "no class has")])
def test_one_class_or_none_is_not_judged(label, reason):
    features = np.random.default_rng(0).normal(0, 1, (20, 4))
    stored, summary = planted(features, label, np.zeros(20, int), names=("a", "b"))
    assert summary.notes["status"] == "not applicable"
    assert reason in summary.notes["reason"]
    assert set(codes_of(summary)) == {"mixing/not-judged"}
    assert (stored["mixing/pair"] == -1).all()


def test_features_that_are_not_finite_leave_a_class_out():
    features, label = clouds(ring(3), 30, 1.0)
    features[label != 0] = np.nan
    _, summary = planted(features, label, label)
    assert "mixing/not-judged" in codes_of(summary)
    features, label = clouds(ring(3), 30, 1.0)
    features[label == 2] = np.nan
    stored, summary = planted(features, label, label)
    assert stored["mixing/verdicts"][0].tolist() == [-1, 0, 4]
    assert summary.notes["images_left_out"] == 30


def test_equal_embeddings_are_guessing_and_no_division():
    label = np.arange(60) % 3
    predicted = np.random.default_rng(0).permutation(label)
    stored, summary = planted(np.ones((60, 4)), label, predicted)
    off = ~np.eye(3, dtype=bool)
    assert (stored["mixing/separation"][off] == 0).all()
    assert (stored["mixing/crossed"][off] == 10).all(), "each image as near to both: half of twenty"
    assert not summary.findings, "answers at chance: the stage confusion says so"


def test_classes_that_are_points_are_infinitely_far_apart():
    label = np.arange(60) % 3
    stored, summary = planted(np.eye(3)[label], label, label)
    assert np.isinf(stored["mixing/separation"][~np.eye(3, dtype=bool)]).all()
    assert not summary.findings


def _noisy(seed=0):
    features, label = clouds(np.random.default_rng(8).normal(0, 1.6, (7, 5)), 50, 1.0, seed)
    centre = np.stack([features[label == c].mean(0) for c in range(7)])
    seen = features + np.random.default_rng(9).normal(0, 0.4, features.shape)
    return features, label, ((seen[:, None] - centre) ** 2).sum(-1).argmin(1)


def test_neither_the_order_of_images_nor_that_of_classes_shows():
    features, label, predicted = _noisy()
    before, one = planted(features, label, predicted, pairs=21)
    order = np.random.default_rng(1).permutation(len(label))
    rename = np.array([3, 0, 6, 2, 5, 1, 4])
    after, two = planted(features[order], rename[label][order], rename[predicted][order], pairs=21)
    square = np.ix_(rename, rename)
    for path in ("confused", "separation", "crossed", "enrichment", "links", "verdicts"):
        np.testing.assert_allclose(after[f"mixing/{path}"][square], before[f"mixing/{path}"], rtol=1e-9, err_msg=path)
    first = {tuple(sorted(rename[pair])) for pair in before["mixing/pair"][:5]}
    assert {tuple(sorted(pair)) for pair in after["mixing/pair"][:5].tolist()} == first
    for name, value in values_of(one).items():
        assert values_of(two)[name] == pytest.approx(value, rel=1e-9), name


def test_signals_agree_where_the_answers_come_from_the_features():
    _, summary = planted(*_noisy())
    measured = values_of(summary)
    assert min(measured["mixing/agreement_separation"], measured["mixing/agreement_neighbors"]) > 0.5
    assert "mixing/signals-disagree" not in codes_of(summary)


def _elsewhere(seed, kind):
    """Answers that come from features that are not compared."""
    rng = np.random.default_rng(seed)
    label, used = np.arange(600) % 10, rng.normal(0, 1.2, (10, 5))
    seen = used[label] + rng.normal(0, 1, (600, 5))
    predicted = ((seen[:, None] - used) ** 2).sum(-1).argmin(1)
    centre = rng.normal(0, 1.2, (10, 5)) if kind == "other" else np.zeros((10, 5))
    return planted(centre[label] + rng.normal(0, 1, (600, 5)), label, predicted)


@pytest.mark.parametrize("seed", [102, 103])
@pytest.mark.parametrize("kind", ["other", "noise"])
def test_confusion_that_comes_from_elsewhere_is_named(seed, kind):
    finding = codes_of(_elsewhere(seed, kind)[1])["mixing/signals-disagree"]
    assert "neighbors.layer" in finding.detail


def test_features_that_know_nothing_set_no_pair_apart():
    stored, summary = _elsewhere(100, "noise")
    code = stored["mixing/verdicts"][np.triu_indices(10, 1)]
    assert (code != 0).mean() > 0.9
    assert values_of(summary)["mixing/head_problems"] == 0


def test_examples_are_the_nearest_to_the_other_centroid_and_the_surest_errors():
    features, label, predicted = _noisy()
    stored, _ = planted(features, label, predicted, examples=3)
    rows = np.asarray(features, np.float32).astype(np.float64)
    for at, pair in enumerate(stored["mixing/pair"][:4]):
        for side in (0, 1):
            other = rows[label == pair[1 - side]].mean(0)
            mine = np.flatnonzero(label == pair[side])
            near = mine[np.argsort(((rows[mine] - other) ** 2).sum(1), kind="stable")][:3]
            np.testing.assert_array_equal(stored["mixing/nearest"][at, side], near)
            taken = np.flatnonzero((label == pair[side]) & (predicted == pair[1 - side]))[:3]
            np.testing.assert_array_equal(stored["mixing/taken"][at, side][: len(taken)], taken)


def test_of_too_many_classes_only_the_first_pairs_are_stored(monkeypatch):
    features, label, predicted = _noisy()
    whole, _ = planted(features, label, predicted, pairs=3)
    monkeypatch.setattr("convaudit.stages.mixing.stage.MOST", 6)
    stored, summary = planted(features, label, predicted, pairs=3)
    assert "mixing/confused" not in stored.arrays
    assert summary.notes["stored"] is False
    np.testing.assert_array_equal(stored["mixing/pair"], whole["mixing/pair"])


def test_the_rate_of_false_names_is_small_where_all_pairs_are_alike():
    named = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        label = np.arange(400) % 8
        features = 4 * np.eye(8)[label] + rng.normal(0, 1, (400, 8))
        predicted = np.where(rng.random(400) < 0.2, rng.integers(0, 8, 400), label)
        stored, _ = planted(features, label, predicted)
        named += int((stored["mixing/verdicts"][np.triu_indices(8, 1)] % 4 > 0).sum())
    assert named <= 3


def test_settings_are_checked():
    for bad in ({"pairs": 0}, {"examples": 0}, {"min_support": 1}, {"level": 0.0}, {"level": 1.0}):
        with pytest.raises(ConfigError, match=f"mixing.{next(iter(bad))}"):
            Mixing(**bad)
