from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import Saliency as CaptumSaliency
from torch import nn

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.gradient_input import GradientInput
from convaudit.stages.attributions.integrated_gradients import IntegratedGradients
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.attributions.smooth_grad import Moments, SmoothGrad, noise
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.numerics.seeds import stable_seed

from ...stored_fake import StoredFake
from ...tiny_models import conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject

SIGNED = Saliency(reduction="sum")
STATISTICS = {"mean": np.mean, "variance": np.var, "square": lambda maps, axis: np.mean(np.square(maps), axis)}


def _maps(model, method, n=4, size=None, **changes):
    """Maps ``(image target *space)`` by path, and the rows that are stored."""
    subject = replace(tiny_subject(model, n), **changes)
    maps, rows = [], []
    for block in tiny_blocks(tiny_images(model, n), batch=size or n):
        with opened(model, block, subject, method.asks(subject)) as batch:
            found = [method.maps(batch, subject, target) for target in method.targets(subject)]
            maps.append({path: np.stack([one[path].numpy() for one in found], 1) for path in found[0]})
            rows.append(method.attribute(batch, subject))
    return tuple({path: np.concatenate([one[path] for one in parts]) for path in parts[0]} for parts in (maps, rows))


def _noisy(subject, i, image, sample, level):
    """One noisy image, drawn as the page of the method says: by seed, image and sample."""
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, subject.image_id[i], f"smooth_grad:{sample}"))
    drawn = torch.randn(image.shape, generator=generator).numpy()
    return image + level * (image.max() - image.min()) * drawn


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
@pytest.mark.parametrize("net", [conv_net, signal_net])
def test_of_the_gradient_equals_the_paper_sample_by_sample(net, statistic):
    model = net().double()
    subject, images = tiny_subject(model, 4), tiny_images(model, 4).astype(np.float64)
    method = SmoothGrad(method=SIGNED, target=3, statistic=statistic, samples=5, level=0.3)
    maps, rows = _maps(model, method)
    for i, image in enumerate(images):
        gradients = []
        for sample in range(5):
            at = torch.from_numpy(_noisy(subject, i, image, sample, 0.3))[None].requires_grad_()
            model(at)[0, 3].backward()
            gradients.append(at.grad[0].numpy().sum(0))
        want = STATISTICS[statistic](np.array(gradients), axis=0)
        np.testing.assert_allclose(maps["heatmap"][i, 0], want, atol=1e-10 * np.abs(want).max())
        stored = rows["heatmap"][i, 0] * rows["scale"][i, 0].astype(float)
        np.testing.assert_allclose(stored, want, atol=1e-3 * np.abs(want).max())


def _cams(model, image, target, layers):
    """Grad-CAM of one image without ReLU, by hooks."""
    kept, hooks = {}, []
    for name in layers:

        def hook(_module, _args, output, name=name):
            kept[name] = output.requires_grad_()
            return output.clone()

        hooks.append(getattr(model, name).register_forward_hook(hook))
    logit = model(torch.from_numpy(image)[None])[0, target]
    for handle in hooks:
        handle.remove()
    gradients = torch.autograd.grad(logit, [kept[name] for name in layers])
    pairs = zip(layers, gradients, strict=True)
    return {name: (g[0].mean((1, 2), keepdim=True) * kept[name][0]).sum(0).detach().numpy() for name, g in pairs}


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
def test_of_grad_cam_equals_the_mean_written_out(statistic):
    model = conv_net().double()
    subject, images = tiny_subject(model, 3), tiny_images(model, 3).astype(np.float64)
    layers = ("conv1", "conv2")
    method = SmoothGrad(method=GradCam(layers=layers, relu=False), target=1, statistic=statistic, samples=4, level=0.2)
    maps, rows = _maps(model, method, 3)
    assert set(maps) == set(rows) == {"conv1/heatmap", "conv2/heatmap"}
    for i, image in enumerate(images):
        cams = {layer: [] for layer in layers}
        for sample in range(4):
            for layer, cam in _cams(model, _noisy(subject, i, image, sample, 0.2), 1, layers).items():
                cams[layer].append(cam)
        for layer in layers:
            want = STATISTICS[statistic](np.array(cams[layer]), axis=0)
            np.testing.assert_allclose(maps[f"{layer}/heatmap"][i, 0], want, atol=1e-10 * np.abs(want).max())
            np.testing.assert_allclose(rows[f"{layer}/heatmap"][i, 0], want, atol=1e-6 * np.abs(want).max())


class Linear(nn.Module):
    input_shape = (3, 4, 5)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (4, 5))

    def forward(self, x):
        return self.conv(x).flatten(1)


def test_of_a_linear_network_it_is_the_gradient_and_never_wavers():
    model = Linear().double().eval().requires_grad_(False)
    want = model.conv.weight[2].sum(0).numpy()
    for statistic, value in (("mean", want), ("square", want**2), ("variance", np.zeros_like(want))):
        maps, _ = _maps(model, SmoothGrad(method=SIGNED, target=2, statistic=statistic, samples=6, level=0.5))
        np.testing.assert_allclose(maps["heatmap"], np.broadcast_to(value, (4, 1, 4, 5)), atol=1e-12)


@pytest.mark.parametrize(
    ("statistic", "theirs"), [("mean", "smoothgrad"), ("square", "smoothgrad_sq"), ("variance", "vargrad")]
)
def test_agrees_with_captum_given_the_same_noise(monkeypatch, statistic, theirs):
    """Captum's level is absolute and its numbers are its own; lent ours, it gives what we do."""
    model = conv_net().double()
    # With a single channel, there is nothing to add up before the statistic.
    first = nn.Conv2d(1, 3, 1).double().requires_grad_(False)
    net = nn.Sequential(first, model).eval()
    net.input_shape = (1, 12, 9)
    subject, images = tiny_subject(net, 3), tiny_images(net, 3).astype(np.float64)
    noisy = np.array([[_noisy(subject, i, image, k, 0.2) for k in range(4)] for i, image in enumerate(images)])
    drawn = torch.from_numpy(noisy - images[:, None]).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda _mean, std: drawn.to(std))
    want = NoiseTunnel(CaptumSaliency(net)).attribute(
        torch.from_numpy(images),
        nt_type=theirs,
        nt_samples=4,
        target=net(torch.from_numpy(images)).argmax(1),
        abs=False,
    )
    maps, _ = _maps(net, SmoothGrad(method=SIGNED, statistic=statistic, samples=4, level=0.2), 3)
    np.testing.assert_allclose(maps["heatmap"][:, 0], want[:, 0], atol=1e-9 * float(want.abs().max()))


def test_noise_is_an_images_own():
    like = torch.zeros(1, dtype=torch.float64)
    both = noise(("a", "b"), (2, 5, 3), 7, 0, like)
    torch.testing.assert_close(noise(("b",), (2, 5, 3), 7, 0, like)[0], both[1], rtol=0, atol=0)
    for other in (noise(("a",), (2, 5, 3), 7, 1, like), noise(("a",), (2, 5, 3), 8, 0, like)):
        assert not torch.isclose(other[0], both[0]).any()
    torch.testing.assert_close(both.float(), noise(("a", "b"), (2, 5, 3), 7, 0, like.float()), rtol=0, atol=0)


@pytest.mark.parametrize("inner", [SIGNED, GradCam(layers=("conv2",))])
def test_neither_batches_nor_samples_in_a_pass_show(inner):
    model = conv_net().double()
    method = SmoothGrad(method=inner, samples=5)
    want, _ = _maps(model, method, batch=1)
    for size, batch in ((1, 1), (2, 4), (3, 64)):
        got, _ = _maps(model, method, size=size, batch=batch)
        for path in want:
            np.testing.assert_allclose(got[path], want[path], rtol=1e-9, atol=1e-14)


def test_the_level_follows_the_range_of_each_image():
    """An image twice as large with weights half as large gives the same logits, and twice the noise fits both."""
    small, large = Linear().double().eval().requires_grad_(False), Linear().double().eval().requires_grad_(False)
    large.load_state_dict(small.state_dict())

    class Squared(nn.Module):
        input_shape = (3, 4, 5)

        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64), requires_grad=False)

        def forward(self, x):
            return small((x * self.factor) ** 2)

    method, found = SmoothGrad(method=SIGNED, target=0, samples=3), []
    for factor in (1.0, 0.5):
        model = Squared(factor).eval()
        subject = replace(tiny_subject(small, 2))
        (block,) = tiny_blocks(tiny_images(small, 2) / np.float32(factor), batch=2)
        with opened(model, block, subject, method.asks(subject)) as batch:
            found.append(method.maps(batch, subject, 0)["heatmap"].numpy())
    np.testing.assert_allclose(found[1], found[0] * 0.5, rtol=1e-10)


def test_moments_keep_their_digits():
    """Large values that hardly differ: the mean of squares less the square of the mean would be noise."""
    values = 1e8 + np.random.default_rng(0).standard_normal((9, 2, 3))
    moments = Moments()
    for value in values:
        moments.add(torch.from_numpy(value))
    np.testing.assert_allclose(moments.get("variance"), values.var(0), rtol=1e-6)
    np.testing.assert_allclose(moments.get("mean"), values.mean(0), rtol=1e-15)


def _run(model, methods, subject, images):
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    leaves = Attributions(methods).leaves()
    try:
        jobs = [(leaf, leaf.tasks(subject, StoredFake())[0]) for leaf in leaves]
        outcomes = run_tasks(model, jobs, tiny_blocks(images, 3), subject, device="cpu", channels_last=False)
    finally:
        handle.remove()
    assert [outcome.error for outcome in outcomes] == [None] * len(leaves)
    summaries = []
    for leaf, outcome in zip(leaves, outcomes, strict=True):
        stored = StoredFake({f"{leaf.name}/{path}": rows for path, rows in outcome.rows.items()})
        summaries.append(leaf.finish([outcome.partial], subject, stored))
    return len(calls), outcomes, summaries


def test_statistics_and_targets_share_the_noisy_passes():
    model = conv_net()
    subject, images = tiny_subject(model, 3, shard=3, batch=3), tiny_images(model, 3)
    kinds = {name: SmoothGrad(method=SIGNED, target="all", statistic=name, samples=4) for name in STATISTICS}
    calls, outcomes, _ = _run(model, kinds, subject, images)
    assert calls == 5
    for (name, method), outcome in zip(kinds.items(), outcomes, strict=True):
        alone = _run(model, {name: method}, subject, images)[1][0]
        for path in alone.rows:
            np.testing.assert_array_equal(outcome.rows[path], alone.rows[path])


def test_what_it_says_of_itself():
    model = conv_net()
    subject, images = tiny_subject(model, 3, shard=3, batch=3), tiny_images(model, 3)
    methods = {
        "pixels": SmoothGrad(method=SIGNED, samples=2),
        "layers": SmoothGrad(method=GradCam(), samples=2, statistic="variance"),
    }
    _, _, (pixels, layers) = _run(model, methods, subject, images)
    assert pixels.notes["rendering"]["kind"] == "pixels"
    assert layers.notes["rendering"]["kind"] == "layer"
    assert pixels.notes["signed"] is True
    assert layers.notes["signed"] is False
    assert layers.notes["unit"] == "(logit)²"
    assert "0.15 of the range" in pixels.notes["noise"]


def test_it_smooths_what_runs_the_network_itself_and_itself():
    model = conv_net().double()
    path = IntegratedGradients(steps=3)
    maps, rows = _maps(model, SmoothGrad(method=path, samples=3, level=1e-9))
    exact, _ = _maps(model, path)
    np.testing.assert_allclose(maps["heatmap"], exact["heatmap"], atol=1e-6 * np.abs(exact["heatmap"]).max())
    assert set(rows) == {"heatmap", "scale"}
    twice = SmoothGrad(method=SmoothGrad(method=GradCam(relu=False), samples=2, level=1e-9), samples=2, level=1e-9)
    maps, _ = _maps(model, twice)
    exact, _ = _maps(model, GradCam(relu=False))
    for key in exact:
        np.testing.assert_allclose(maps[key], exact[key], atol=1e-6 * np.abs(exact[key]).max())


def test_the_target_is_that_of_the_image_without_noise():
    model = conv_net().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    predicted = model(images).argmax(1)
    method = SmoothGrad(method=SIGNED, samples=3, level=2.0)
    maps, _ = _maps(model, method)
    every, _ = _maps(model, replace(method, target="all"))
    want = every["heatmap"][np.arange(4), predicted.numpy()]
    np.testing.assert_allclose(maps["heatmap"][:, 0], want, rtol=1e-9, atol=1e-14)


def test_contrast_has_no_map_where_the_image_is_right():
    model = conv_net().double()
    label = model(torch.from_numpy(tiny_images(model, 4)).double()).argmax(1).numpy()
    label[2] = (label[2] + 1) % 5
    maps, _ = _maps(model, SmoothGrad(method=GradientInput(), target="contrast", samples=2), label=label)
    assert np.isnan(maps["heatmap"]).all(axis=(1, 2, 3)).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"method": 3}, "expected an attribution method with a _target_, got 3"),
        (
            {"method": Saliency(target="label")},
            "SmoothGrad.method.target: expected 'predicted' or nothing, got 'label'",
        ),
        ({"method": Saliency(images="wrong")}, "SmoothGrad.method.images"),
        ({"method": SIGNED, "samples": 0}, "at least 1, got 0"),
        ({"method": SIGNED, "samples": 1, "statistic": "variance"}, "at least 2, got 1"),
        ({"method": SIGNED, "level": 0.0}, "level: expected above 0"),
    ],
)
def test_settings_that_do_not_fit(settings, why):
    with pytest.raises(ConfigError, match=why):
        SmoothGrad(**settings)


def test_a_target_set_inside_too_may_agree():
    assert SmoothGrad(method=Saliency(target="label"), target="label").inner.target == "label"
