from dataclasses import replace

import numpy as np
import pytest

from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.gaze.stage import Gaze
from convaudit.stages.specs import LayerSpec, Summary

from ...stored_fake import StoredFake, make_subject, run_leaf, values_of

LAYERS = (LayerSpec("conv", "conv", "Conv2d", (4, 5, 7)), LayerSpec("fc", "linear", "Linear", (3,)))
N = 40


def subject_of(label, **more):
    return make_subject(
        label, layers=LAYERS, class_names=("ant", "bee", "cat", "dog"), input_shape=(3, 10, 14), shard=7, **more
    )


def data(n=N, space=(5, 7), seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    predicted = np.where(rng.uniform(size=n) < 0.3, (label + 1) % 3, label).astype(np.int32)
    predicted[4] = -1
    heatmap = rng.normal(size=(n, 1, *space)).astype(np.float32)
    heatmap[4] = np.nan
    heatmap[9] = 0
    heatmap[11] = -np.abs(heatmap[11])
    return label, predicted, heatmap


def stored_of(predicted, heatmap, target=None, path="attributions/grad_cam/conv/heatmap", notes=None):
    arrays = {
        path: heatmap,
        "attributions/grad_cam/target": (predicted if target is None else target)[:, None],
        "predictions/predicted": predicted,
    }
    return StoredFake(arrays, {"attributions/grad_cam": Summary(notes=notes or {})})


def classes(subject, stored, **settings):
    leaf = Gaze(**{"layer": "conv", **settings}).leaves()[0]
    return run_leaf(leaf, subject, stored)


def slow_shares(row):
    positive = np.where(row > 0, row, 0).astype(np.float64)
    return positive / positive.sum()


def test_means_are_those_of_the_images_that_count():
    label, predicted, heatmap = data()
    stored = stored_of(predicted, heatmap)
    summary = classes(subject_of(label), stored, pairs=4)
    sides = stored["gaze/classes/group"]
    assert sides[:4].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    for row, (true, guess) in enumerate(sides):
        inside = [i for i in range(N) if true >= 0 and label[i] == true and predicted[i] == guess]
        own = [i for i in inside if i not in (4, 9, 11)]
        assert stored["gaze/classes/n"][row] == len(own)
        assert stored["gaze/classes/blank"][row] == len(inside) - len(own)
        if not own:
            assert np.isnan(stored["gaze/classes/heatmap"][row]).all()
            continue
        shares = [slow_shares(heatmap[i, 0]) for i in own]
        np.testing.assert_allclose(stored["gaze/classes/heatmap"][row], np.mean(shares, axis=0), atol=1e-7)
        rim = [share.sum() - share[1:-1, 1:-1].sum() for share in shares]
        assert stored["gaze/classes/group_border"][row] == pytest.approx(np.mean(rim), rel=1e-6)
        y = [(share.sum(axis=1) * (np.arange(5) + 0.5) / 5).sum() for share in shares]
        x = [(share.sum(axis=0) * (np.arange(7) + 0.5) / 7).sum() for share in shares]
        np.testing.assert_allclose(stored["gaze/classes/group_centre"][row], [np.mean(y), np.mean(x)], rtol=1e-6)
        if len(own) > 1:
            low, high = stored["gaze/classes/group_border_bound"][row]
            assert low < np.mean(rim) < high
    assert summary.notes["blank_heatmaps"] == 2
    assert summary.notes["placed_by"] == "proportion"
    assert 0 < values_of(summary)["gaze/border_share"] < 1


@pytest.mark.parametrize("shard", [1, 13, 40])
def test_blocks_do_not_show(shard):
    label, predicted, heatmap = data()
    first, second = stored_of(predicted, heatmap), stored_of(predicted, heatmap)
    classes(subject_of(label), first)
    classes(replace(subject_of(label), shard=shard), second)
    for path, values in first.arrays.items():
        assert np.asarray(values).tobytes() == np.asarray(second[path]).tobytes(), path


def test_the_order_of_the_images_does_not_show():
    label, predicted, heatmap = data()
    order = np.random.default_rng(1).permutation(N)
    first, second = stored_of(predicted, heatmap), stored_of(predicted[order], heatmap[order])
    classes(subject_of(label), first)
    classes(subject_of(label[order]), second)
    for name in ("heatmap", "group_border", "group_centre", "group_spread", "n", "blank", "group"):
        path = f"gaze/classes/{name}"
        np.testing.assert_allclose(second[path], first[path], rtol=1e-9)


def test_evidence_in_one_cell():
    heatmap = np.zeros((6, 1, 5, 7), np.float32)
    heatmap[:3, 0, 4, 6] = [3, 100, 1e-20]
    heatmap[3:, 0, 2, 3] = 5
    label = np.array([0, 0, 0, 1, 1, 1])
    stored = stored_of(label.astype(np.int32), heatmap)
    classes(subject_of(label), stored)
    np.testing.assert_allclose(stored["gaze/classes/group_border"][:2], [1, 0])
    np.testing.assert_allclose(stored["gaze/classes/group_border_bound"][:2], [[1, 1], [0, 0]])
    np.testing.assert_allclose(stored["gaze/classes/group_centre"][:2], [[0.9, 13 / 14], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(stored["gaze/classes/group_spread"][:2], 0, atol=1e-6)


def test_cells_lie_where_the_receptive_fields_do():
    label, predicted, heatmap = data()
    geometry = {"conv": {"stride": [2, 2], "centre": [1.0, 0.0]}}
    stored = stored_of(predicted, heatmap, notes={"rendering": {"kind": "layer", "geometry": geometry}})
    summary = classes(subject_of(label), stored)
    assert summary.notes["placed_by"] == "receptive fields"
    assert summary.notes["edges"][0] == [0, 2.5, 4.5, 6.5, 8.5, 10]
    assert summary.notes["edges"][1] == [0, 1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 14]


def test_large_maps_are_pooled():
    label, predicted, _ = data()
    heatmap = np.random.default_rng(2).uniform(size=(N, 1, 10, 14)).astype(np.float16)
    stored = stored_of(predicted, heatmap, path="attributions/grad_cam/heatmap")
    classes(subject_of(label), stored, layer=None, cells=5)
    assert stored["gaze/classes/pooled"].shape == (N, 5, 5)
    want = slow_shares(heatmap[0, 0]).reshape(5, 2, 14).sum(axis=1)
    np.testing.assert_allclose(stored["gaze/classes/pooled"][0].sum(axis=1), want.sum(axis=1), rtol=1e-5)


def test_signals_have_one_axis():
    label, predicted, heatmap = data(space=(20,))
    layers = (LayerSpec("conv", "conv", "Conv1d", (4, 20)),)
    subject = replace(subject_of(label), layers=layers, axes=("time",), input_shape=(1, 80))
    stored = stored_of(predicted, heatmap)
    source = {"layer": "conv", "clusters": 3}
    for leaf in Gaze(**source).leaves()[:3]:
        run_leaf(leaf, subject, stored)
    assert stored["gaze/classes/pooled"].shape == (N, 14)
    assert stored["gaze/classes/group_centre"].shape[1] == 1
    assert stored["gaze/shortcuts/box"].tolist() == [[[0, 6]], [[74, 80]]]


def test_absent_classes_and_single_images():
    label = np.array([0, 2, 2])
    heatmap = np.random.default_rng(3).uniform(size=(3, 1, 5, 7)).astype(np.float32)
    stored = stored_of(label.astype(np.int32), heatmap)
    subject = subject_of(label)
    for leaf in Gaze(layer="conv").leaves()[:3]:
        run_leaf(leaf, subject, stored)
    assert stored["gaze/classes/n"][:4].tolist() == [1, 0, 2, 0]
    assert np.isfinite(stored["gaze/classes/group_border"][0])
    assert np.isnan(stored["gaze/classes/group_border_bound"][[0, 1]]).all()
    assert np.isnan(stored["gaze/classes/heatmap"][[1, 3]]).all()
    assert stored["gaze/clusters/size"].tolist()[:3] == [[1, 0, 0, 0, 0], [0] * 5, [2, 0, 0, 0, 0]]
    assert (stored["gaze/shortcuts/class"] == -1).all()
    assert np.isnan(values_of(stored.summary("gaze/shortcuts"))["gaze/shortcut_candidates"])


def test_without_labels_nothing_is_measured():
    _, predicted, heatmap = data()
    stored, subject = stored_of(predicted, heatmap), subject_of(np.full(N, -1))
    for leaf in Gaze(layer="conv").leaves()[:3]:
        summary = run_leaf(leaf, subject, stored)
        assert summary.notes["status"] == "not applicable"
    assert np.isnan(values_of(stored.summary("gaze/classes"))["gaze/border_share"])


def test_heatmaps_of_another_class_do_not_count():
    label, predicted, heatmap = data()
    stored = stored_of(predicted, heatmap, target=np.full(N, 1, np.int32))
    summary = classes(subject_of(label), stored)
    assert stored["gaze/classes/n"][[0, 2]].tolist() == [0, 0]
    assert stored["gaze/classes/n"][1] > 0
    wrong = sum(1 for i in range(N) if predicted[i] >= 0 and predicted[i] != 1)
    assert summary.notes["heatmaps_of_another_class"] == wrong


@pytest.mark.parametrize("layer", ["conv", "nothing"])
def test_maps_that_are_not_stored_are_named(layer):
    label, predicted, heatmap = data()
    stored = stored_of(predicted, heatmap, path="attributions/grad_cam/other/heatmap")
    with pytest.raises(StageError if layer == "conv" else ConfigError, match="conv"):
        classes(subject_of(label), stored, layer=layer)


def test_a_layer_without_space_is_refused():
    label, predicted, heatmap = data()
    with pytest.raises(ConfigError, match="spatial"):
        classes(subject_of(label), stored_of(predicted, heatmap), layer="fc")


def test_groups_are_drawn_from_a_sample_and_averaged():
    rng = np.random.default_rng(8)
    label = np.zeros(90, int)
    heatmap = rng.uniform(0, 0.05, (90, 1, 5, 7)).astype(np.float32)
    heatmap[:60, 0, 0, 1] += 5 + rng.uniform(size=60)
    heatmap[60:, 0, 4, 5] += 5 + rng.uniform(size=30)
    stored, subject = stored_of(label.astype(np.int32), heatmap), subject_of(label)
    for leaf in Gaze(layer="conv", cluster_images=50, clusters=3).leaves()[:2]:
        summary = run_leaf(leaf, subject, stored)
    cluster = stored["gaze/clusters/cluster"]
    assert (cluster >= 0).sum() == 50
    assert set(cluster[:60]) == {-1, 0}
    assert set(cluster[60:]) == {-1, 1}
    assert summary.notes["classes_with_several_groups"] == 1
    assert "sampled" in summary.notes
    for group in range(2):
        shares = [slow_shares(heatmap[i, 0]) for i in np.flatnonzero(cluster == group)]
        np.testing.assert_allclose(stored["gaze/clusters/heatmap"][0, group], np.mean(shares, axis=0), atol=1e-6)
    assert stored["gaze/clusters/size"][0].tolist() == [(cluster == 0).sum(), (cluster == 1).sum(), 0]
    again = stored_of(label.astype(np.int32), heatmap)
    for leaf in Gaze(layer="conv", cluster_images=50, clusters=3).leaves()[:2]:
        run_leaf(leaf, replace(subject, shard=11), again)
    for path, values in stored.arrays.items():
        assert np.asarray(values).tobytes() == np.asarray(again[path]).tobytes(), path
