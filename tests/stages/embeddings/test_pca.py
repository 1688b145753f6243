import numpy as np
import pytest
from sklearn import decomposition

from convaudit.stages.embeddings import rows, spectra
from convaudit.stages.embeddings.pca import PCA
from convaudit.stages.embeddings.rows import Rows
from convaudit.stages.embeddings.stage import Embeddings
from convaudit.stages.errors import ConfigError, StageError

from ...stored_fake import StoredFake, codes_of, make_subject, run_leaf, values_of, vector_layer


def table(features, valid=None):
    return Rows.finite(features, np.ones(len(features), bool) if valid is None else valid, features.shape[1])


def principal_components(features, k, seed):
    """What the method stores: places, directions, shares, centre."""
    found = PCA(components=k, scree=1).embed(table(features), seed, "embeddings/pca")
    return found.coordinate, found.arrays["component"], found.arrays["explained"], found.arrays["centre"]


def cloud(n=40, width=7, seed=0):
    rng = np.random.default_rng(seed)
    scales = np.linspace(4, 0.3, width)
    return (rng.normal(size=(n, width)) * scales @ rng.normal(size=(width, width)) + 3).astype(np.float32)


def replica(features, k):
    """Eigenvectors of the covariance matrix, in float64."""
    rows = features.astype(np.float64)
    centre = rows.mean(axis=0)
    covariance = (rows - centre).T @ (rows - centre) / (len(rows) - 1)
    value, vector = np.linalg.eigh(covariance)
    order = np.argsort(-value)[:k]
    component = vector[:, order].T
    for i in range(k):
        if component[i, np.argmax(np.abs(component[i]))] < 0:
            component[i] *= -1
    return (rows - centre) @ component.T, component, value[order] / value.sum(), centre


@pytest.mark.parametrize(("n", "width", "k"), [(40, 7, 3), (6, 20, 5), (90, 4, 4), (60, 700, 2)])
def test_directions_shares_and_places_are_those_of_the_covariance(n, width, k):
    features = cloud(n, width)
    for found, expected in zip(principal_components(features, k, 0), replica(features, k), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())


def test_agrees_with_scikit_learn_up_to_sign():
    features = cloud()
    oracle = decomposition.PCA(3, svd_solver="covariance_eigh").fit(features.astype(np.float64))
    _, component, explained, _ = principal_components(features, 3, 0)
    np.testing.assert_allclose(np.abs((component * oracle.components_).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(explained, oracle.explained_variance_ratio_, rtol=1e-5)


@pytest.mark.parametrize(("n", "width"), [(80, 30), (30, 80)])
def test_random_projections_come_close_where_the_table_is_too_large(monkeypatch, n, width):
    features = cloud(n, width)
    exact = principal_components(features, 2, 0)
    monkeypatch.setattr(spectra, "_WHOLE", 20)
    for found, expected in zip(principal_components(features, 2, 0), exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


class Counted:
    """Stored rows that note how many were read at once."""

    def __init__(self, values):
        self.values, self.most = values, 0

    def __getitem__(self, key):
        self.most = max(self.most, len(self.values[key]))
        return self.values[key]


@pytest.mark.parametrize(("n", "width", "whole"), [(80, 7, 4096), (30, 80, 4096), (80, 70, 20)])
def test_blocks_of_rows_change_nothing_but_rounding_and_no_table_is_held(monkeypatch, n, width, whole):
    monkeypatch.setattr(spectra, "_WHOLE", whole)
    features = cloud(n, width)
    valid = np.ones(n, bool)
    valid[[0, 13, 14]] = False
    in_one = principal_components(features[valid], 2, 0)
    monkeypatch.setattr(rows, "_MOST", 13)
    stored = Counted(features)
    found = PCA(components=2).embed(Rows.finite(stored, valid, width), 0, "embeddings/pca")
    assert stored.most == 13
    np.testing.assert_allclose(found.coordinate, in_one[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.arrays["component"], in_one[1], rtol=1e-4, atol=1e-5)


def test_long_rows_are_read_fewer_at_once():
    for width, most in ((8, 4096), (4096, 1024), (10**6, 64)):
        bounds = list(rows._ranges(5000, width))
        assert bounds[0] == (0, most)
        assert [b for _, b in bounds[:-1]] == [a for a, _ in bounds[1:]]
        assert bounds[-1][1] == 5000


@pytest.mark.parametrize(("n", "width", "held"), [(40, 7, 7), (6, 20, 5), (40, 30, 12)])
def test_scree_goes_on_beyond_the_components_that_are_drawn(n, width, held):
    features = cloud(n, width)
    found = PCA(components=2, scree=12).embed(table(features), 0, "embeddings/pca")
    scree = found.arrays["scree"]
    expected = replica(features, min(n - 1, width, 12))[2]
    np.testing.assert_allclose(scree[:held], expected, rtol=1e-3, atol=1e-7)
    assert np.isnan(scree[held:]).all()
    np.testing.assert_array_equal(scree[:2], found.arrays["explained"])
    if held == min(n - 1, width):
        assert scree[:held].sum() == pytest.approx(1, abs=1e-5)


def test_points_on_a_line():
    t = np.array([-3.0, 1, 0, 2, -1])
    features = np.stack([10 - 0.6 * t, 5 + 0.8 * t], axis=1).astype(np.float32)
    coordinate, component, explained, centre = principal_components(features, 1, 0)
    np.testing.assert_allclose(component, [[-0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(coordinate[:, 0], t - t.mean(), atol=1e-5)
    np.testing.assert_allclose(explained, [1], atol=1e-6)
    np.testing.assert_allclose(centre, [10 - 0.6 * t.mean(), 5 + 0.8 * t.mean()], rtol=1e-6)


@pytest.mark.parametrize("width", [7, 700])
def test_moving_all_features_moves_nothing_and_mirroring_keeps_the_sign_rule(width):
    features = cloud(60, width)
    one = principal_components(features, 2, 0)
    moved = principal_components(features + np.float32(8), 2, 0)
    np.testing.assert_allclose(one[0], moved[0], atol=1e-3 * np.abs(one[0]).max())
    mirrored = principal_components(-features, 2, 0)
    np.testing.assert_allclose(one[1], mirrored[1], atol=1e-4)
    assert (one[1][np.arange(2), np.abs(one[1]).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("width", [7, 700])
def test_same_bytes_twice_and_the_input_is_untouched(width):
    features = cloud(60, width)
    before = features.copy()
    first, second = (principal_components(features, 2, 5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()
    np.testing.assert_array_equal(features, before)


def low_rank(n, width, rank):
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, width))).astype(np.float32)


@pytest.mark.parametrize(("features", "rank"), [(low_rank(30, 8, 3), 3), (low_rank(90, 700, 3), 3), (cloud(4, 9), 3)])
def test_more_components_than_the_rank_is_an_error_that_names_it(features, rank):
    assert principal_components(features, rank, 0)[0].shape[1] == rank
    with pytest.raises(ConfigError, match=f"4 components .* rank {rank} .* {rank} or less"):
        principal_components(features, rank + 1, 0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_features_are_an_error(value):
    with pytest.raises(ConfigError, match="are the same"):
        principal_components(np.full((9, 5), value, np.float32), 1, 0)


def test_one_image_is_an_error_in_words():
    with pytest.raises(ConfigError, match="one usable image"):
        principal_components(cloud(1), 1, 0)


def leaf_of(**settings):
    (leaf,) = Embeddings({"pca": PCA(**settings)}).leaves()
    return leaf


def stored_for(features, status=None):
    status = np.zeros(len(features), np.int8) if status is None else np.asarray(status, np.int8)
    return StoredFake({"features/fc.input": features, "predictions/status": status})


def subject_for(features, **more):
    layers = more.pop("layers", [vector_layer(features=features.shape[1])])
    return make_subject(np.zeros(len(features), int), layers=layers, **more)


def test_masked_images_keep_nan_and_take_no_part():
    features = cloud()
    whole = principal_components(np.delete(features, [3, 30], axis=0), 2, 0)
    features[3], features[30] = np.nan, 1e6
    status = np.zeros(40)
    status[[3, 30]] = 2
    stored = stored_for(features, status)
    summary = run_leaf(leaf_of(), subject_for(features), stored)
    assert np.isnan(stored["embeddings/pca/coordinate"][[3, 30]]).all()
    np.testing.assert_array_equal(np.delete(stored["embeddings/pca/coordinate"], [3, 30], axis=0), whole[0])
    np.testing.assert_array_equal(stored["embeddings/pca/component"], whole[1])
    assert summary.notes["n"] == 38
    assert not summary.findings


def test_features_that_are_not_finite_are_a_finding():
    features = cloud()
    features[5, 2] = np.inf
    stored = stored_for(features)
    summary = run_leaf(leaf_of(), subject_for(features), stored)
    assert codes_of(summary)["embeddings/not-finite"].images == (5,)
    assert np.isnan(stored["embeddings/pca/coordinate"][5]).all()


def test_explained_share_is_measured():
    features = cloud()
    summary = run_leaf(leaf_of(components=3), subject_for(features), stored_for(features))
    assert values_of(summary)["embeddings/pca_explained"] == pytest.approx(replica(features, 3)[2].sum(), rel=1e-5)


def test_leaf_is_named_by_its_method_and_keyed_by_its_settings():
    leaf = leaf_of(components=3)
    assert leaf.name == "embeddings/pca"
    assert leaf.config["components"] == 3
    assert set(leaf.reads) == {"features", "predictions"}


def test_a_selector_of_two_layers_is_refused():
    features = cloud()
    layers = [vector_layer("a.input", 7), vector_layer("b.input", 7)]
    with pytest.raises(ConfigError, match="expected one layer"):
        leaf_of(layer="*.input").writes(subject_for(features, layers=layers))


def test_features_that_are_not_stored_name_the_setting():
    features = cloud()
    stored = stored_for(features)
    del stored.arrays["features/fc.input"]
    with pytest.raises(StageError, match=r"features\.layers"):
        run_leaf(leaf_of(), subject_for(features), stored)


def test_no_usable_image_is_an_error():
    features = cloud()
    with pytest.raises(StageError, match="not one image"):
        run_leaf(leaf_of(), subject_for(features), stored_for(features, np.ones(40)))


@pytest.mark.parametrize("methods", [{}, {"pca": 3}])
def test_methods_are_checked(methods):
    with pytest.raises(ConfigError, match=r"embeddings\.methods"):
        Embeddings(methods)
    with pytest.raises(ConfigError, match="expected 1 or more"):
        PCA(components=0)
