"""The kNN check on real digits, and with copies, leaks and broken features planted."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from convaudit.stages.errors import ConfigError
from convaudit.stages.neighbors.duplicates import duplicate_groups, first_of, joined, near_duplicates
from convaudit.stages.neighbors.hubs import occurrences, outlying, skewness
from convaudit.stages.neighbors.purity import by_value
from convaudit.stages.neighbors.stage import Neighbors, pieces

from ...stored_fake import StoredFake, codes_of, make_subject, run_leaf, values_of, vector_layer


def stored_for(features, predicted, layer="fc.input"):
    n = len(features)
    return StoredFake(
        {
            f"features/{layer}": np.asarray(features, np.float32),
            "predictions/predicted": np.asarray(predicted, np.int32),
            "predictions/confidence": np.full(n, 0.9, np.float32),
            "predictions/status": np.zeros(n, np.int8),
        }
    )


@pytest.fixture(scope="module")
def digits():
    held = load_digits()
    return held.data.astype(np.float32), held.target.astype(int)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_leave_one_out_on_raw_digits_is_that_of_a_brute_force(digits, metric):
    pixels, label = digits
    n, k = len(pixels), 5
    leaf, stored = Neighbors(metric=metric, k=k, block=600), stored_for(pixels, label)
    summary = run_leaf(leaf, make_subject(label, layers=[vector_layer(features=64)], shard=256), stored)
    rows = pixels.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    right = 0
    for i in range(n):
        squared = ((rows - rows[i]) ** 2).sum(axis=1)
        squared[i] = np.inf
        nearest = np.lexsort((np.arange(n), squared))[:k]
        np.testing.assert_array_equal(stored["neighbors/index"][i], nearest)
        votes = np.bincount(label[nearest], minlength=10)
        winners = [j for j in nearest if votes[label[j]] == votes.max()]
        right += label[winners[0]] == label[i]
    assert values_of(summary)["neighbors/accuracy"] == right / n
    assert right / n > 0.98
    assert sum(summary.notes["searched"].values()) == n


def alike(pixels, rng):
    """A scan of the same digit again: each of the 64 pixels one of 16 steps up or down, or as it was."""
    return np.clip(pixels + rng.integers(-1, 2, pixels.shape), 0, 16)


def test_planted_copies_and_leaks_are_found_and_nothing_else(digits):
    pixels, label = digits
    rng = np.random.default_rng(0)
    n, planted = 1000, rng.permutation(1000)[:120]
    exact, near = planted[:60], planted[60:]
    table = np.concatenate([pixels[:n], pixels[exact], alike(pixels[near], rng)])
    wrong = np.arange(120) % 6 == 0
    given = np.concatenate([label[:n], (label[planted] + wrong) % 10])
    content = (*map(str, range(n)), *map(str, exact), *(f"near{i}" for i in near))
    split = ("train",) * n + ("test",) * 60 + ("train",) * 20 + ("test",) * 40
    subject = make_subject(
        given,
        layers=[vector_layer(features=64)],
        shard=128,
        content=content,
        split=split,
        class_names=tuple(map(str, range(10))),
    )
    stored = stored_for(table, given)
    summary = run_leaf(Neighbors(metric="euclidean", block=512), subject, stored)
    values, codes = values_of(summary), codes_of(summary)
    assert values["neighbors/duplicate_count"] == values["neighbors/leak_count"] == 60
    assert values["neighbors/conflict_count"] == 10
    np.testing.assert_array_equal(stored["neighbors/copy"][n : n + 60], exact)
    found = stored["neighbors/near"]
    assert (found[n + 60 :] == near).mean() >= 0.95
    pairs = {tuple(sorted((int(i), int(j)))) for i, j in enumerate(found) if j >= 0}
    true = {tuple(sorted((int(j), n + 60 + i))) for i, j in enumerate(near)}
    assert len(pairs & true) / len(pairs) >= 0.95
    assert abs(values["neighbors/near_leak_count"] - 40) <= 2
    assert abs(values["neighbors/near_conflict_count"] - 10) <= 1
    assert set(codes["neighbors/leaking-duplicates"].images) <= {*exact, *range(n, n + 60)}
    assert {"neighbors/near-leaks", "neighbors/near-conflicts", "neighbors/conflicting-duplicates"} <= set(codes)


def test_digits_without_planted_copies_have_none(digits):
    pixels, label = digits
    stored = stored_for(pixels[:700], label[:700])
    subject = make_subject(label[:700], layers=[vector_layer(features=64)], shard=256)
    summary = run_leaf(Neighbors(metric="euclidean"), subject, stored)
    values, codes = values_of(summary), codes_of(summary)
    assert values["neighbors/near_duplicate_count"] <= 7
    assert values["neighbors/leak_count"] == values["neighbors/near_leak_count"] == 0
    assert not {"neighbors/duplicates", "neighbors/same-features", "neighbors/not-finite"} & set(codes)


def test_features_that_are_not_finite_are_a_finding_and_no_neighbors(digits):
    pixels, label = digits
    features = pixels[:80].copy()
    features[3, 5], features[50, 0] = np.nan, np.inf
    stored = stored_for(features, label[:80])
    summary = run_leaf(Neighbors(k=4), make_subject(label[:80], layers=[vector_layer(features=64)]), stored)
    finding = codes_of(summary)["neighbors/not-finite"]
    assert (finding.severity, finding.images) == ("warning", (3, 50))
    assert stored["neighbors/search"][[3, 50]].tolist() == [3, 3]
    assert not np.isin(stored["neighbors/index"], [3, 50]).any()
    assert (stored["neighbors/occurrence"][[3, 50]] == -1).all()


def test_embeddings_that_are_all_equal_are_told():
    label = np.arange(40) % 2
    stored = stored_for(np.ones((40, 3)), label)
    subject = make_subject(label, layers=[vector_layer(features=3)])
    summary = run_leaf(Neighbors(k=4), subject, stored)
    assert codes_of(summary)["neighbors/same-features"].title.startswith("40 images")
    assert stored["neighbors/index"][0].tolist() == [1, 2, 3, 4]
    assert stored["neighbors/index"][39].tolist() == [0, 1, 2, 3]
    assert (stored["neighbors/near"] == -1).all()
    assert values_of(summary)["neighbors/near_duplicate_count"] == 0


def test_one_image_and_k_as_large_as_the_set_are_errors_not_clips():
    for n, k in ((1, 1), (5, 5), (5, 6)):
        with pytest.raises(ConfigError, match=rf"{k} neighbors need more than {k} usable images, got {n}"):
            Neighbors(k=k).writes(make_subject(np.zeros(n, int), layers=[vector_layer()]))
    stored = stored_for(np.eye(5), np.zeros(5))
    run_leaf(Neighbors(k=4, metric="euclidean"), make_subject(np.zeros(5, int), layers=[vector_layer()]), stored)
    assert (stored["neighbors/index"] >= 0).all()


def test_images_that_are_all_unusable_are_an_error():
    stored = stored_for(np.full((12, 5), np.nan), np.zeros(12))
    with pytest.raises(ConfigError, match="got 0"):
        run_leaf(Neighbors(k=3), make_subject(np.zeros(12, int), layers=[vector_layer()]), stored)


def test_further_layers_have_neighbors_and_an_accuracy_of_their_own(digits):
    pixels, label = digits
    stored = stored_for(pixels[:90], label[:90])
    noise = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    stored.arrays["features/conv"] = noise
    layers = [vector_layer("conv", 3), vector_layer(features=64)]
    summary = run_leaf(
        Neighbors(layer="fc.input", also=("conv", "fc.input"), k=3, block=40), make_subject(label[:90], layers=layers),
        stored,
    )  # fmt: skip
    alone = stored_for(noise, label[:90], "conv")
    run_leaf(Neighbors(layer="conv", k=3), make_subject(label[:90], layers=layers), alone)
    np.testing.assert_array_equal(stored["neighbors/conv/index"], alone["neighbors/index"])
    (row,) = summary.notes["further"]
    assert (row["layer"], row["n"]) == ("conv", 90)
    assert row["accuracy"] == (alone["neighbors/predicted"] == label[:90]).mean()
    assert row["accuracy"] < values_of(summary)["neighbors/accuracy"]


@pytest.mark.parametrize("block", [1, 64, 5000])
def test_blocks_change_no_byte_and_tasks_are_whole_shards(digits, block):
    pixels, label = digits
    runs = []
    for each in (block, 128):
        leaf, stored = Neighbors(k=3, block=each), stored_for(pixels[:200], label[:200])
        subject = make_subject(label[:200], layers=[vector_layer(features=64)], shard=32)
        assert all(task.start % 32 == 0 for task in leaf.tasks(subject, stored))
        run_leaf(leaf, subject, stored)
        runs.append({path: array for path, array in stored.arrays.items() if path.startswith("neighbors/")})
    for path, values in runs[0].items():
        np.testing.assert_array_equal(values, runs[1][path], err_msg=path)


def test_near_duplicates_by_hand():
    index = np.array([[1, 2], [0, 2], [1, 3], [2, 1], [-1, -1]])
    length = np.array([[1.0, 10], [1, 8], [8, 9], [3, 9], [np.nan, np.nan]])
    none = np.full(5, -1)
    # 0 and 1: 1 <= 0.4 * 8. 3 to 2: 3 <= 0.4 * 9, and 2 lists 3 at 9.
    assert near_duplicates(index, length, 0.4, none).tolist() == [1, 0, -1, 2, -1]
    assert near_duplicates(index, length, 0.1, none).tolist() == [-1, -1, -1, -1, -1]
    copies = first_of(duplicate_groups(["a", "a", "b", "c", "d"]), 5)
    assert copies.tolist() == [0, 0, -1, -1, -1]
    assert near_duplicates(index, length, 0.4, copies).tolist() == [-1, -1, -1, 2, -1]
    # k neighbors at distance 0 leave no scale.
    assert near_duplicates(np.array([[1], [0]]), np.zeros((2, 1)), 0.4, none[:2]).tolist() == [-1, -1]
    assert joined(np.array([1, -1, 4, -1, 5, -1])) == ((0, 1), (2, 4, 5))
    assert joined(none) == ()


def test_hubs_and_outliers_by_hand():
    count = occurrences(np.array([[1, 2], [2, 0], [1, 0], [-1, -1]]))
    assert count.tolist() == [2, 2, 2, 0]
    # mean 1.5, deviations .5 .5 .5 -1.5: third moment -0.75, variance 0.75.
    assert skewness(count) == pytest.approx(-0.75 / 0.75**1.5)
    assert np.isnan(skewness(np.array([3, 3])))
    far, fence = outlying(np.array([1.0, 2, 3, 4, 5, 11.1, np.nan, 10.9]))
    # Quartiles of 1 2 3 4 5 10.9 11.1 are 2.5 and 7.95; the fence stands at 7.95 + 3 * 5.45.
    assert fence == pytest.approx(24.3)
    assert not far.any()
    far, fence = outlying(np.array([1.0, 2, 3, 4, 5, 12]))
    assert fence == pytest.approx(4.75 + 3 * 2.5)
    far, _ = outlying(np.array([1.0, 2, 3, 4, 5, 13]))
    assert far.tolist() == [False] * 5 + [True]
    assert np.isnan(outlying(np.array([1.0, 2, 3]))[1])


def test_purity_by_slice_by_hand():
    rows = by_value(
        ["a", "b", "a", "b", "a"], ["a", "b", "c"], np.array([1, 0.5, 0, np.nan, 0.5]),
        np.array([True, True, False, False, True]), np.array([True, False, False, False, True]),
        np.array([True, True, True, False, True]),
    )  # fmt: skip
    assert [(row["value"], row["n"], row["purity"]) for row in rows] == [("a", 3, 0.5), ("b", 1, 0.5), ("c", 0, None)]
    assert rows[0]["accuracy"] == rows[0]["head"] == pytest.approx(2 / 3)
    assert (rows[1]["accuracy"], rows[1]["head"]) == (1, 0)


def test_slices_of_the_data_reach_the_notes(digits):
    pixels, label = digits
    camera = tuple("old" if i % 3 else "new" for i in range(60))
    subject = make_subject(label[:60], layers=[vector_layer(features=64)], slices={"camera": camera})
    summary = run_leaf(Neighbors(k=3), subject, stored_for(pixels[:60], label[:60]))
    assert [(row["value"], row["n"]) for row in summary.notes["slices"]["camera"]] == [("new", 20), ("old", 40)]


def test_pieces_are_whole_shards_equal_and_even_in_number():
    assert pieces(50_000, 8192, 256) == [range(a, min(a + 6400, 50_000)) for a in range(0, 50_000, 6400)]
    assert pieces(300, 8192, 256) == [range(300)]
    assert pieces(300, 1, 256) == [range(256), range(256, 300)]
    assert pieces(1000, 400, 64) == [range(a, min(a + 256, 1000)) for a in range(0, 1000, 256)]
