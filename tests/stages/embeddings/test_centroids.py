import numpy as np
import pytest
from sklearn.metrics import davies_bouldin_score

from convaudit.stages.embeddings.biplot import longest_arrows
from convaudit.stages.embeddings.centroids import class_centroids
from convaudit.stages.embeddings.pca import PCA
from convaudit.stages.embeddings.rows import Rows
from convaudit.stages.embeddings.stage import Embeddings

from ...stored_fake import StoredFake, make_subject, run_leaf, values_of, vector_layer


def planted(n=60, width=5, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    return (rng.normal(size=(n, width)) + 4 * rng.normal(size=(3, width))[label]).astype(np.float32), label


def found_for(features, label, n_class, valid=None):
    valid = np.ones(len(features), bool) if valid is None else valid
    return class_centroids(Rows.finite(features, valid, features.shape[1]), np.asarray(label), n_class)


def test_a_case_by_hand():
    features = np.array([[0, 0], [0, 2], [3, 5], [5, 5], [9, 9]], np.float32)
    found = found_for(features, [0, 0, 1, 1, -1], 3)
    np.testing.assert_array_equal(found.centroid, [[0, 1], [4, 5], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.count, [2, 2, 0])
    np.testing.assert_array_equal(found.spread, [1, 1, np.nan])
    assert found.distance[0, 1] == found.distance[1, 0] == pytest.approx(np.sqrt(32))
    assert found.overlap[0, 1] == pytest.approx(2 / np.sqrt(32))
    assert np.isnan(found.overlap[0, 0])
    assert np.isnan(found.distance[2]).all()
    assert found.worst_overlap() == pytest.approx(2 / np.sqrt(32))


def test_agrees_with_a_loop_and_with_scikit_learn():
    features, label = planted()
    found = found_for(features, label, 4)
    for one in range(3):
        own = features[label == one].astype(np.float64)
        np.testing.assert_allclose(found.centroid[one], own.mean(axis=0))
        away = [np.linalg.norm(row - own.mean(axis=0)) for row in own]
        assert found.spread[one] == pytest.approx(np.mean(away))
        for other in range(3):
            rival = features[label == other].astype(np.float64).mean(axis=0)
            assert found.distance[one, other] == pytest.approx(np.linalg.norm(own.mean(axis=0) - rival))
    assert found.worst_overlap() == pytest.approx(davies_bouldin_score(features.astype(np.float64), label))


def test_images_that_cannot_be_used_take_no_part():
    features, label = planted()
    valid = np.arange(60) % 5 > 0
    features[7] = np.nan
    kept = valid & (np.arange(60) != 7)
    found = found_for(features, label, 3, valid)
    for a, b in zip(found.arrays().values(), found_for(features[kept], label[kept], 3).arrays().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_moving_all_moves_only_the_centroids_and_scaling_leaves_the_overlap():
    features, label = planted()
    first, second = found_for(features, label, 3), found_for(2 * features + np.float32(3), label, 3)
    np.testing.assert_allclose(second.distance, 2 * first.distance, rtol=1e-5)
    np.testing.assert_allclose(second.overlap, first.overlap, rtol=1e-5)


def run(features, label, **more):
    (leaf,) = Embeddings({"pca": PCA()}).leaves()
    stored = StoredFake({"features/fc.input": features, "predictions/status": np.zeros(len(features), np.int8)})
    subject = make_subject(label, layers=[vector_layer(features=features.shape[1])], **more)
    return run_leaf(leaf, subject, stored), stored


def test_a_leaf_stores_and_measures_them():
    features, label = planted()
    summary, stored = run(features, label)
    expected = davies_bouldin_score(features.astype(np.float64), label)
    assert values_of(summary)["embeddings/pca_class_overlap"] == pytest.approx(expected)
    np.testing.assert_array_equal(stored["embeddings/pca/count"], np.bincount(label, minlength=3))
    assert stored["embeddings/pca/class_distance"].shape == (3, 3)


def test_one_class_has_no_overlap_and_two_in_one_place_none_that_is_a_number():
    features, _ = planted(20)
    summary, _ = run(features, np.zeros(20, int))
    assert "embeddings/pca_class_overlap" not in values_of(summary)
    summary, _ = run(np.concatenate([features, features]), np.repeat([0, 1], 20))
    assert np.isnan(values_of(summary)["embeddings/pca_class_overlap"])


def test_arrows_are_the_longest_loadings():
    component = np.array([[0.0, 0.6, 0.0, -0.8], [1.0, 0.0, 0.0, 0.0]])
    place, end = longest_arrows(component, 9)
    assert place.tolist() == [0, 3, 1]
    np.testing.assert_array_equal(end, [[0, 1], [-0.8, 0], [0.6, 0]])
    assert longest_arrows(component, 1)[0].tolist() == [0]
    np.testing.assert_array_equal(longest_arrows(component[:1], 9)[1], [[-0.8, 0], [0.6, 0]])


def test_a_feature_is_read_off_its_arrow_where_the_plane_holds_everything():
    rng = np.random.default_rng(3)
    features = (rng.normal(size=(30, 2)) @ rng.normal(size=(2, 6))).astype(np.float32)
    embedded = PCA(scree=1).embed(Rows.finite(features, np.ones(30, bool), 6), 0, "embeddings/pca")
    place, end = longest_arrows(embedded.arrays["component"], 6)
    told = embedded.coordinate @ end.T
    np.testing.assert_allclose(told, (features - features.mean(axis=0))[:, place], atol=1e-4)
