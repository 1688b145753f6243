import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.activations.stage import Activations
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import ALL, conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _sweep(model, leaf, subject, images, bad=(), batch=2, channels_last=False):
    partials = []
    for task in leaf.tasks(subject, None):
        shard = images[task.images.start : task.images.stop]
        blocks = tiny_blocks(shard, batch=batch, bad=bad, start=task.images.start)
        (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=channels_last)
        assert outcome.error is None, outcome.error
        partials.append(outcome.partial)
    return leaf.finish(partials, subject, None)


def _outputs(model, name, images):
    """What a module gives, copied before an in-place layer can write over it."""
    caught = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, out: caught.append(out.clone()))
    with torch.no_grad():
        model(torch.from_numpy(images).to(next(model.parameters()).dtype))
    handle.remove()
    return caught


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["conv1", "relu1", "conv2"])
def test_stored_arrays_agree_with_a_plain_hook(name, channels_last):
    model = conv_net().double()
    subject, images = tiny_subject(model, 9), tiny_images(model, 9)
    summary = _sweep(model, Activations(top=3), subject, images, bad=(4,), channels_last=channels_last)
    (values,) = _outputs(model, name, np.delete(images, 4, 0))
    where = np.delete(np.arange(9), 4)
    got = {
        key: summary.arrays[f"{name}/{key}"]
        for key in ("fired", "rate", "mean", "variance", "min", "max", "mean_abs", "sparsity")
    }
    flat = values.transpose(0, 1).flatten(1).numpy()
    np.testing.assert_array_equal(got["fired"], (values.amax((2, 3)) > 0).sum(0))
    np.testing.assert_allclose(got["rate"], got["fired"] / 8)
    for key, want in {
        "mean": flat.mean(1),
        "variance": flat.var(1),
        "min": flat.min(1),
        "max": flat.max(1),
        "mean_abs": np.abs(flat).mean(1),
        "sparsity": (flat <= 0).mean(1),
    }.items():
        np.testing.assert_allclose(got[key], want, rtol=1e-5, atol=1e-6, err_msg=key)
    for c in range(values.shape[1]):
        peaks = values[:, c].flatten(1).amax(1)
        best = sorted(range(8), key=lambda i: (-peaks[i].item(), i))[:3]
        np.testing.assert_array_equal(summary.arrays[f"{name}/top_image"][c], where[best])
        for rank, i in enumerate(best):
            y, x = summary.arrays[f"{name}/top_position"][c, rank]
            assert values[i, c, y, x] == peaks[i]


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_conv_and_relu_of_every_network_is_covered(name):
    model = ALL[name]()
    subject, images = tiny_subject(model), tiny_images(model)
    leaf = Activations()
    summary = _sweep(model, leaf, subject, images)
    assert {array.path for array in leaf.writes(subject)} == set(summary.arrays)
    assert {path.split("/")[0] for path in summary.arrays} == {
        layer.name for layer in subject.layers if layer.kind in ("conv", "relu")
    }


def test_saturation_is_measured_where_there_is_a_limit():
    model = residual_net()
    model.conv.weight.mul_(20)
    subject, images = tiny_subject(model), tiny_images(model)
    summary = _sweep(model, Activations(), subject, images)
    capped = [layer.name for layer in subject.layers if layer.upper == 6]
    assert capped
    shares = np.concatenate([summary.arrays[f"{name}/saturated"] for name in capped])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.max() > 0.1
    assert np.isnan(summary.arrays["conv/saturated"]).all()
    (first, *_) = _outputs(model, "block1.relu", images)
    want = (first == 6).double().mean((0, 2, 3))
    np.testing.assert_allclose(summary.arrays["block1.relu#0/saturated"], want, atol=1e-6)


def test_signals_have_positions_in_time_and_vectors_have_none():
    model = signal_net()
    leaf, subject = Activations(), tiny_subject(model)
    assert {a.shape[-1] for a in leaf.writes(subject) if a.path.endswith("top_position")} == {1}
    vectors = Activations(layers=("fc",))
    assert not [a for a in vectors.writes(subject) if a.path.endswith("top_position")]
    summary = _sweep(model, vectors, subject, tiny_images(model))
    logits = model(torch.from_numpy(tiny_images(model)))
    np.testing.assert_allclose(summary.arrays["fc/max"], logits.amax(0), rtol=1e-6)
    np.testing.assert_array_equal(summary.arrays["fc/top_image"][:, 0], logits.argmax(0))


def test_fewer_images_than_ranks_and_no_image_at_all():
    model = conv_net()
    subject, images = tiny_subject(model, 4), tiny_images(model, 4)
    summary = _sweep(model, Activations(top=9), subject, images, bad=(0, 1, 2))
    assert (summary.arrays["conv1/top_image"][:, 0] == 3).all()
    assert (summary.arrays["conv1/top_image"][:, 1:] == -1).all()
    assert np.isnan(summary.arrays["conv1/top_value"][:, 1:]).all()
    empty = _sweep(model, Activations(), subject, images, bad=(0, 1, 2, 3))
    assert np.isnan(empty.arrays["conv1/mean"]).all()
    assert np.isnan(empty.arrays["conv1/rate"]).all()
    assert (empty.arrays["conv1/top_position"] == -1).all()
    assert empty.findings == ()


def test_values_that_are_not_finite_are_named():
    model = conv_net()
    model.conv2.bias[5] = float("inf")
    subject, images = tiny_subject(model), tiny_images(model)
    findings = _sweep(model, Activations(layers=("conv2",)), subject, images).findings
    assert [(f.severity, f.layer, f.channels) for f in findings] == [("error", "conv2", (5,))]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"activations\.top"):
        Activations(top=0)
    with pytest.raises(ConfigError, match="at least one"):
        Activations(layers=())
    with pytest.raises(ConfigError, match=r"activations\.statistics.*'spread'"):
        Activations(statistics=("spread",))


def test_only_what_is_asked_is_measured_and_stored():
    model = conv_net()
    subject, images = tiny_subject(model, 9), tiny_images(model, 9)
    leaf = Activations(top=2, statistics=("sparsity",))
    some, every = _sweep(model, leaf, subject, images), _sweep(model, Activations(top=2), subject, images)
    assert {array.path for array in leaf.writes(subject)} == set(some.arrays)
    assert set(every.arrays) - set(some.arrays) == {
        f"{layer}/{name}"
        for layer in ("conv1", "relu1", "conv2", "relu2")
        for name in ("variance", "min", "mean_abs", "saturated")
    }
    for path, array in some.arrays.items():
        np.testing.assert_allclose(array, every.arrays[path], rtol=1e-6, atol=1e-7, err_msg=path)


_PLACES = {
    "conv": ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2"),
    "functional": ("stem.conv", "stem.functional_relu", "relu#0", "relu#1", "conv4", "functional_relu#0"),
}


@pytest.mark.parametrize("name", sorted(_PLACES))
def test_before_and_after_the_relu_in_one_sweep_although_it_writes_in_place(name):
    """Each layer against the network run piece by piece without any in-place operation."""
    model = ALL[name]()
    subject, images = tiny_subject(model), tiny_images(model)
    places = _PLACES[name]
    summary = _sweep(model, Activations(layers=places, statistics=("min", "sparsity")), subject, images)
    truth = _apart(model, name, torch.from_numpy(images))
    for layer in places:
        values = truth[layer].double()
        flat = values.transpose(0, 1).flatten(1)
        np.testing.assert_allclose(summary.arrays[f"{layer}/min"], flat.amin(1), rtol=1e-5, atol=1e-6, err_msg=layer)
        np.testing.assert_allclose(summary.arrays[f"{layer}/max"], flat.amax(1), rtol=1e-5, atol=1e-6, err_msg=layer)
        np.testing.assert_allclose(
            summary.arrays[f"{layer}/sparsity"], (flat <= 0).double().mean(1), atol=1e-6, err_msg=layer
        )
    before = [layer for layer in places if layer.startswith(("conv", "bn", "stem.conv"))]
    assert all((summary.arrays[f"{layer}/min"] < 0).any() for layer in before)


def _apart(model, name, x):
    """Every value of the two networks, none written over."""
    at = {}
    if name == "conv":
        for k, pool in (("1", model.pool), ("2", torch.nn.Identity())):
            at[f"conv{k}"] = model.get_submodule(f"conv{k}")(x)
            at[f"bn{k}"] = model.get_submodule(f"bn{k}")(at[f"conv{k}"])
            at[f"relu{k}"] = torch.clamp(at[f"bn{k}"], min=0)
            x = pool(at[f"relu{k}"])
        return at
    at["stem.conv"] = model.stem.conv(x)
    at["stem.functional_relu"] = torch.clamp(at["stem.conv"], min=0)
    at["relu#0"] = torch.clamp(model.conv2(at["stem.functional_relu"]), min=0)
    at["relu#1"] = torch.clamp(model.conv3(at["relu#0"]), min=0)
    at["conv4"] = model.conv4(at["relu#1"])
    at["functional_relu#0"] = torch.clamp(at["conv4"], min=0)
    return at


class _ShortOfMemory(Activations):
    """Runs out of memory once, when the second batch has been looked at."""

    calls = 0

    def process(self, batch, task, subject):
        type(self).calls += 1
        if self.calls == 2:
            raise torch.OutOfMemoryError
        return super().process(batch, task, subject)


@pytest.mark.parametrize("kind", [Activations, _ShortOfMemory])
@pytest.mark.parametrize("batch", [2, 5, 20])
def test_the_best_of_a_long_task_are_those_of_all_images_at_once(kind, batch):
    model = conv_net()
    subject, images = tiny_subject(model, 20, shard=20), np.round(tiny_images(model, 20))
    _ShortOfMemory.calls = 0
    summary = _sweep(model, kind(top=3), subject, images, bad=(2, 11), batch=batch)
    usable = np.delete(np.arange(20), [2, 11])
    for layer in ("conv1", "relu1", "relu2"):
        (values,) = _outputs(model, layer, images[usable])
        for c in range(values.shape[1]):
            peaks = summary.arrays[f"{layer}/top_value"][c]
            own = values[:, c].flatten(1).amax(1)
            np.testing.assert_allclose(peaks, own.sort(descending=True).values[:3], rtol=1e-5)
            for rank, image in enumerate(summary.arrays[f"{layer}/top_image"][c]):
                y, x = summary.arrays[f"{layer}/top_position"][c, rank]
                at = np.searchsorted(usable, image)
                np.testing.assert_allclose(values[at, c, y, x], peaks[rank], rtol=1e-5)
    if kind is Activations:
        whole = _sweep(model, Activations(top=3), subject, images, bad=(2, 11), batch=20)
        np.testing.assert_array_equal(summary.arrays["relu2/top_image"], whole.arrays["relu2/top_image"])


def test_a_network_without_relus_has_its_convolutions_measured():
    torch.manual_seed(0)
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), *last)
    model.input_shape = (3, 6, 5)
    subject = tiny_subject(model.eval(), 2)
    asked = Activations().asks(subject).observe
    assert asked == ("0",)
