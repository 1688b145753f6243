import sys

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from convaudit.stages.embeddings import tsne as module
from convaudit.stages.embeddings.rows import Rows
from convaudit.stages.embeddings.sampling import condensed, drawn, on_all
from convaudit.stages.embeddings.stage import Embeddings
from convaudit.stages.embeddings.tsne import TSNE
from convaudit.stages.embeddings.umap import UMAP
from convaudit.stages.errors import ConfigError

from ...stored_fake import StoredFake, codes_of, make_subject, run_leaf, values_of, vector_layer


def groups(n=120, width=12, seed=0):
    """Three groups far from each other."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    return (rng.normal(size=(n, width)) + 12 * np.eye(3, width)[label]).astype(np.float32), label


def table(features):
    return Rows.finite(features, np.ones(len(features), bool), features.shape[1])


def run(features, method=None, status=None, key="tsne", **more):
    method = method or TSNE(perplexity=8, iterations=60)
    (leaf,) = Embeddings({key: method}).leaves()
    status = np.zeros(len(features), np.int8) if status is None else status
    stored = StoredFake({"features/fc.input": features, "predictions/status": status})
    label = more.pop("label", np.zeros(len(features), int))
    subject = make_subject(label, layers=[vector_layer(features=features.shape[1])], **more)
    return run_leaf(leaf, subject, stored), stored[f"embeddings/{key}/coordinate"]


def divergence(features, place, perplexity):
    """The objective from every pair, in float64: bandwidths by bisection, neighborhoods not cut off."""
    n = len(features)
    squared = ((features[:, None].astype(float) - features[None]) ** 2).sum(axis=2)
    p = np.zeros((n, n))
    for i in range(n):
        low, high = 0.0, 1e2
        for _ in range(200):
            beta = (low + high) / 2
            away = squared[i] - np.delete(squared[i], i).min()
            away[i] = np.inf
            weight = np.exp(-beta * away)
            share = weight / weight.sum()
            entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
            low, high = (beta, high) if entropy > np.log(perplexity) else (low, beta)
        p[i] = share
    p = (p + p.T) / (2 * n)
    q = 1 / (1 + ((place[:, None] - place[None]) ** 2).sum(axis=2))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    return (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()


def test_the_divergence_is_that_of_every_pair_up_to_neighborhoods_cut_off():
    features, label = groups()
    summary, place = run(features, label=label)
    told = values_of(summary)["embeddings/tsne_divergence"]
    # Cut off at three perplexities, the neighborhoods lack their far tail.
    assert told == pytest.approx(divergence(features, place.astype(float), 8), rel=0.2)
    rng = np.random.default_rng(0)
    assert told < 0.5 * divergence(features, rng.normal(size=place.shape) * place.std(), 8)


def test_planted_groups_come_apart_and_neighbors_stay():
    features, label = groups()
    _, place = run(features, label=label)
    centre = np.stack([place[label == one].mean(axis=0) for one in range(3)])
    nearest = ((place[:, None] - centre[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, label)
    assert trustworthiness(features, place, n_neighbors=8) > 0.85


@pytest.mark.parametrize("from_here_grid", [10_000, 1])
def test_same_bytes_twice_and_with_any_number_of_threads(monkeypatch, from_here_grid):
    monkeypatch.setattr(module, "_INTERPOLATED", from_here_grid)
    monkeypatch.setattr(module, "_EARLY", 3)  # threads that wait for each other are slow where others compute
    features, _ = groups(60)
    method, threads = TSNE(perplexity=5, iterations=3), torch.get_num_threads()
    found = []
    try:
        for count in (1, 1, 2):
            torch.set_num_threads(count)
            found.append(run(features, method)[1].tobytes())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_another_seed_draws_another_sample_and_the_start_needs_none():
    features, _ = groups(60)
    method = TSNE(perplexity=5, iterations=5, sample=40)
    first, second = (run(features, method, seed=seed)[1] for seed in (0, 1))
    assert (np.isnan(first) != np.isnan(second)).any()


def test_a_sample_is_stated_and_the_rest_has_no_place():
    features, _ = groups(60)
    summary, place = run(features, TSNE(perplexity=5, iterations=5, sample=40))
    assert np.isfinite(place).all(axis=1).sum() == 40
    assert summary.notes["sampled"] == "placed 40 of 60 usable images, drawn at random without replacement"
    assert summary.measurements[0].n == 40
    assert "sampled" not in run(features, TSNE(perplexity=5, iterations=5, sample=60))[0].notes


def test_a_sample_is_ordered_and_places_go_back_to_their_images():
    features, _ = groups(60)
    features[3] = np.nan
    rows = table(features)
    chosen = drawn(rows, 20, 0, "x")
    assert len(chosen) == 20
    assert not (chosen.usable & ~rows.usable).any()
    place = on_all(rows, chosen, np.flatnonzero(chosen.usable)[:, None].astype(float))
    full = np.full(60, np.nan)
    full[rows.usable] = place[:, 0]
    np.testing.assert_array_equal(full[chosen.usable], np.flatnonzero(chosen.usable))
    assert np.isnan(full[~chosen.usable]).all()


def test_few_directions_of_a_sample_keep_all_distances():
    rng = np.random.default_rng(2)
    features = (rng.normal(size=(30, 4)) @ rng.normal(size=(4, 9))).astype(np.float32)
    found = condensed(table(features), 50, 0, "x")
    assert found.shape == (30, 4)
    expected = np.linalg.norm(features[:, None].astype(float) - features[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), expected, atol=1e-4)
    line = np.arange(9.0, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert condensed(table(line), 50, 0, "x").shape == (9, 2)


def test_features_that_are_not_finite_are_a_finding():
    features, _ = groups(60)
    features[7, 2] = np.nan
    summary, place = run(features, TSNE(perplexity=5, iterations=5))
    assert codes_of(summary)["embeddings/not-finite"].images == (7,)
    assert np.isnan(place[7]).all()
    assert np.isfinite(np.delete(place, 7, axis=0)).all()


def test_too_few_images_name_the_perplexity_that_would_do():
    features, _ = groups(25)
    with pytest.raises(ConfigError, match=r"more than 24 usable images, got 24; set perplexity to 7\.667 or less"):
        run(features[:24], TSNE(perplexity=8))
    assert np.isfinite(run(features, TSNE(perplexity=8, iterations=2))[1]).all()
    for n in (1, 3):
        with pytest.raises(ConfigError, match=r"give it 4 images or more|set perplexity to"):
            run(features[:n], TSNE(perplexity=30))


@pytest.mark.parametrize(("n", "perplexity"), [(16, 5.0), (22, 7.0), (90, 89 / 3), (91, 30.0), (120, 30.0)])
def test_a_perplexity_that_nobody_named_suits_the_images(n, perplexity):
    summary, place = run(groups(n)[0], TSNE(iterations=2))
    assert summary.notes["perplexity"] == pytest.approx(perplexity)
    assert np.isfinite(place).all()
    assert f"perplexity {perplexity:.4g};" in summary.measurements[0].meaning


@pytest.mark.parametrize("n", [1, 2, 15])
def test_too_few_images_for_a_perplexity_that_nobody_named_are_told_and_have_no_place(n):
    summary, place = run(groups(n)[0], TSNE())
    assert np.isnan(place).all()
    assert "embeddings/tsne_divergence" not in values_of(summary)
    assert f"no map of {n} images" in summary.notes["left_out"]
    assert "16 images or more" in summary.notes["left_out"]
    assert summary.notes["not_applicable"] == {"embeddings/tsne_divergence": summary.notes["left_out"]}
    sampled = run(groups(60)[0], TSNE(sample=12))[0]
    assert "no map of 12 images" in sampled.notes["left_out"]


def test_equal_features_are_an_error():
    with pytest.raises(ConfigError, match="are the same"):
        run(np.full((40, 5), 0.1, np.float32), TSNE(perplexity=5))


def test_copies_among_others_still_have_places():
    features, _ = groups(60)
    features[:30] = features[0]
    assert np.isfinite(run(features, TSNE(perplexity=5, iterations=20))[1]).all()


@pytest.mark.parametrize("wrong", [{"perplexity": 0}, {"directions": 1}, {"sample": 2}, {"iterations": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=rf"embeddings\.methods\.tsne\.{next(iter(wrong))}: expected"):
        TSNE(**wrong)


@pytest.mark.parametrize("wrong", [{"neighbors": 1}, {"gap": 2}, {"directions": 1}, {"sample": 2}])
def test_settings_of_umap_are_checked(wrong):
    with pytest.raises(ConfigError, match=rf"embeddings\.methods\.umap\.{next(iter(wrong))}: expected"):
        UMAP(**wrong)


def test_without_umap_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"umap-learn is not installed; pip install 'convaudit\[umap\]'$"):
        run(groups(30)[0], UMAP(), key="umap")


def test_umap_gets_a_seed_one_thread_and_the_components(monkeypatch):
    class Library:
        def UMAP(self, **settings):
            self.settings = settings
            return self

        def fit_transform(self, values):
            return values[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", library := Library())
    features, _ = groups(30)
    summary, place = run(features, UMAP(neighbors=4, sample=20), key="umap")
    assert library.settings["n_jobs"] == 1
    assert library.settings["init"].shape == (20, 2)
    assert np.abs(library.settings["init"]).max() == pytest.approx(10)
    assert np.isfinite(place).all(axis=1).sum() == 20
    assert "sampled" in summary.notes
    with pytest.raises(ConfigError, match="4 neighbors need more than 4 usable images, got 3"):
        run(features[:3], UMAP(neighbors=4), key="umap")


def test_umap_repeats_itself():
    pytest.importorskip("umap", reason="umap-learn is an extra")
    features, label = groups(60)
    first, second = (run(features, UMAP(neighbors=8), key="umap", label=label)[1] for _ in range(2))
    assert first.tobytes() == second.tobytes()
    centre = np.stack([first[label == one].mean(axis=0) for one in range(3)])
    np.testing.assert_array_equal(((first[:, None] - centre[None]) ** 2).sum(axis=2).argmin(axis=1), label)
