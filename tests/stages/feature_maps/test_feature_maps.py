import numpy as np
import pytest
import torch

from convaudit.stages.errors import ConfigError
from convaudit.stages.feature_maps.chosen import choose, right_and_wrong
from convaudit.stages.feature_maps.maps import maps, small_space
from convaudit.stages.feature_maps.stage import FeatureMaps
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake, settle
from ...tiny_models import ALL, conv_net, functional_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _stored(subject, predicted=None, confidence=None, status=None):
    n = subject.n_image
    label = np.asarray(subject.label)
    return StoredFake(
        {
            "predictions/predicted": np.where(label < 0, 0, label) if predicted is None else np.asarray(predicted),
            "predictions/confidence": np.linspace(0.5, 0.9, n) if confidence is None else np.asarray(confidence),
            "predictions/status": np.zeros(n, np.int8) if status is None else np.asarray(status),
        }
    )


def _run(model, leaf, subject, images, stored, bad=(), batch=2):
    partials = []
    for task in leaf.tasks(subject, stored):
        blocks = [block for block in tiny_blocks(images, batch=batch, bad=bad)]
        (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
        assert outcome.error is None, outcome.error
        partials.append(outcome.partial)
    return settle(leaf, subject, stored, partials)


def _mean_of_neighbours(plane, size):
    """Every picture point is the mean from floor(i n / m) to ceil((i + 1) n / m), along each axis, in float64."""
    plane = np.asarray(plane, np.float64)
    for axis, m in enumerate(size):
        n = plane.shape[axis]
        parts = [
            np.take(plane, range(i * n // m, -(-(i + 1) * n // m)), axis).mean(axis=axis, keepdims=True)
            for i in range(m)
        ]
        plane = np.concatenate(parts, axis=axis)
    return plane


def _replica(values, channels, size):
    """One image of one layer, channel by channel."""
    rows = []
    for c in channels:
        small = _mean_of_neighbours(values[c], size)
        low, high = small.min(), small.max()
        pixels = np.zeros(small.shape) if high == low else 255 * (small - low) / (high - low)
        rows.append((pixels, low, high, values[c].max() > 0))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("order", ["evenly", "strongest"])
@pytest.mark.parametrize("shape", [(3, 7, 11, 6), (2, 5, 33), (2, 4, 3, 3)])
def test_pictures_agree_with_loops_in_float64(shape, order):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values[0, 1] = -np.abs(values[0, 1])
    space = small_space(shape[2:], side=5, steps=9)
    got = maps(torch.from_numpy(values), 3, space, order)
    for i in range(shape[0]):
        peaks = [values[i, c].max() for c in range(shape[1])]
        channels = [k * shape[1] // 3 for k in range(3)]
        if order == "strongest":
            channels = sorted(range(shape[1]), key=lambda c: (-peaks[c], c))[:3]
        pixels, low, high, fires = _replica(values[i], channels, space)
        assert got.channel[i].tolist() == channels
        np.testing.assert_allclose(got.map[i], pixels, atol=0.51)
        np.testing.assert_allclose(got.range[i], np.stack([low, high], 1), rtol=1e-5, atol=1e-6)
        assert got.fires[i].tolist() == fires.tolist()
        assert got.silent[i] == sum(peak <= 0 for peak in peaks)
        assert got.sparsity[i].item() == pytest.approx(np.mean(values[i] <= 0))


def test_the_size_keeps_the_proportions_and_nothing_grows():
    assert small_space((112, 56), 32, 9) == (32, 16)
    assert small_space((7, 5), 32, 9) == (7, 5)
    assert small_space((1, 300), 32, 9) == (1, 32)
    assert small_space((300,), 32, 128) == (128,)


def test_a_linear_change_of_a_channel_does_not_change_its_picture():
    values = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 4, 9, 8)).astype(np.float32))
    first, second = (maps(v, 4, (4, 4), "evenly").map.int() for v in (values, 8 * values + 16))
    assert (first - second).abs().max() <= 1


def test_values_that_are_equal_or_not_finite_are_dark_and_say_so():
    values = torch.ones(1, 3, 4, 3)
    values[0, 1, 2, 1] = torch.nan
    values[0, 2, 0, 0] = torch.inf
    got = maps(values, 3, (4, 3), "evenly")
    assert not got.map.any()
    assert got.range[0, 0].tolist() == [1, 1]
    assert got.range[0, 1:].isnan().all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_layer_of_every_network_is_pictured_before_it_is_written_over(name):
    model = ALL[name]()
    subject, images = tiny_subject(model), tiny_images(model)
    leaf = FeatureMaps(images=("id:image-004", "id:image-001"), max_images=3, channels=4, side=6, steps=10)
    stored = _stored(subject)
    summary = _run(model, leaf, subject, images, stored)
    assert summary.arrays["image"].tolist() == [4, 1, -1]
    assert {array.path for array in leaf.writes(subject)} == set(summary.arrays)
    wanted = [layer for layer in subject.layers if layer.kind in ("conv", "norm", "relu", "pool")]
    wanted = [layer.name for layer in wanted if np.prod(layer.shape[1:]) > 1]
    assert summary.notes["layers"] == wanted
    for at, layer in enumerate(wanted):
        low = summary.arrays[f"{layer}/range"][:2, :, 0]
        assert np.isnan(summary.arrays[f"{layer}/range"][2]).all()
        assert (summary.arrays[f"{layer}/channel"][2] == -1).all()
        kind = subject.layer(layer).kind
        assert (low >= 0).all() if kind == "relu" else True
        assert 0 <= summary.arrays["sparsity"][0, at] <= 1
        if kind in ("conv", "norm"):
            assert (low < 0).any(), f"{layer} was seen after a ReLU wrote over it"


def test_a_functional_in_place_relu_leaves_the_picture_of_its_convolution_alone():
    model = functional_net()
    subject, images = tiny_subject(model), tiny_images(model)
    leaf = FeatureMaps(images=("all",), max_images=6, layers=("stem.conv", "stem.functional_relu"), side=12)
    arrays = _run(model, leaf, subject, images, _stored(subject)).arrays
    want = model.stem.conv(torch.from_numpy(images)).numpy()
    for i in range(6):
        pixels, low, high, fires = _replica(want[i], range(6), (12, 9))
        np.testing.assert_allclose(arrays["stem.conv/map"][i], pixels, atol=0.51)
        np.testing.assert_allclose(arrays["stem.conv/range"][i], np.stack([low, high], 1), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(arrays["stem.functional_relu/fires"][i], fires)
        np.testing.assert_allclose(arrays["stem.functional_relu/range"][i, :, 1], np.maximum(high, 0), rtol=1e-4)


def test_a_planted_dead_channel_is_marked_in_every_image_and_others_are_not():
    def marked(model):
        subject, images = tiny_subject(model), tiny_images(model)
        leaf = FeatureMaps(images=("all",), max_images=6, layers=("relu1",))
        arrays = _run(model, leaf, subject, images, _stored(subject)).arrays
        return arrays["relu1/fires"], arrays["silent"][:, 0]

    clean, few = marked(conv_net())
    assert (clean[:, 2] == 1).all()
    model = conv_net()
    model.conv1.bias[2] = -1e3
    fires, silent = marked(model)
    assert (fires[:, 2] == 0).all()
    np.testing.assert_array_equal(np.delete(fires, 2, 1), np.delete(clean, 2, 1))
    np.testing.assert_array_equal(silent, few + 1)


def test_signals_and_the_size_of_the_batch():
    model = signal_net()
    subject, images = tiny_subject(model), tiny_images(model)
    leaf = FeatureMaps(images=("all",), layers=("kind:conv",), steps=8)
    assert {array.dims[-1] for array in leaf.writes(subject) if array.path.endswith("/map")} == {"time"}
    one, six = (_run(model, leaf, subject, images, _stored(subject), batch=batch).arrays for batch in (1, 6))
    assert one["conv1/map"].shape == (6, 6, 8)
    np.testing.assert_allclose(one["conv1/map"].astype(int), six["conv1/map"], atol=1)


def test_an_image_that_cannot_be_used_has_no_row():
    model = conv_net()
    subject, images = tiny_subject(model), tiny_images(model)
    leaf = FeatureMaps(images=("id:image-002", "id:image-003"), layers=("conv1",))
    summary = _run(model, leaf, subject, images, _stored(subject), bad=(2,))
    assert summary.arrays["image"].tolist() == [3] + 5 * [-1]
    assert summary.notes["images"] == 1


def test_a_right_and_a_wrong_image_of_the_classes_with_the_most_wrong_ones():
    label = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1, 1])
    predicted = np.array([0, 0, 1, 0, 0, 1, 2, 2, 0, 2])
    confidence = np.array([0.5, 0.9, 0.8, 0.6, 0.7, 0.4, 0.9, 0.9, 1.0, 0.7])
    valid = np.ones(10, bool)
    assert right_and_wrong(label, predicted, confidence, valid, 3) == (5, 4, 1, 2, 6)
    assert right_and_wrong(label, predicted, confidence, valid, 1) == (5, 4)
    valid[5] = False
    assert right_and_wrong(label, predicted, confidence, valid, 1) == (4,)
    assert right_and_wrong(np.full(10, -1), predicted, confidence, valid, 3) == ()
    names = tuple(f"i{k}" for k in range(10))
    facts = (label, predicted, confidence, np.ones(10, bool))
    assert choose(("id:i8", "right_and_wrong:1", "i8", "errors"), names, *facts, 4) == (8, 5, 4, 2)
    with pytest.raises(ConfigError, match="right_and_wrong:x"):
        choose(("right_and_wrong:x",), names, *facts, 4)


def test_without_labels_nothing_is_chosen_and_the_notes_say_so():
    model = conv_net()
    subject = tiny_subject(model)
    leaf = FeatureMaps()
    stored = _stored(subject, predicted=np.full(6, -1))
    assert list(leaf.tasks(subject, stored)) == []
    summary = settle(leaf, subject, stored, [])
    assert summary.notes["images"] == 0
    assert (summary.arrays["image"] == -1).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_images": 0}, r"feature_maps\.max_images: expected 1 to 64"),
        ({"channels": 0}, r"feature_maps\.channels"),
        ({"side": 257}, r"feature_maps\.side"),
        ({"order": "loudest"}, "evenly or strongest"),
        ({"images": ()}, r"feature_maps\.images: expected at least one"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ConfigError, match=words):
        FeatureMaps(**settings)


def test_layers_without_positions_are_refused_by_name():
    subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match="several positions"):
        FeatureMaps(layers=("fc",)).writes(subject)
    with pytest.raises(ConfigError, match="matches nothing"):
        FeatureMaps(layers=("conv9",)).writes(subject)
