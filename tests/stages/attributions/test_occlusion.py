from dataclasses import replace

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions import scores
from convaudit.stages.attributions.occlusion import Occlusion
from convaudit.stages.attributions.stage import AttributionLeaf
from convaudit.stages.attributions.windows import render_windows, winning_classes
from convaudit.stages.contract import Ablate, Ask
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake
from ...tiny_models import conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject

SMALL = {"window": 4, "stride": 3}


def _opened(model, method, n=3, subject=None, bad=(), variant=None):
    subject = subject or tiny_subject(model, n)
    (block,) = tiny_blocks(tiny_images(model, n), batch=n, bad=bad)
    options = {} if variant is None else {"variant": variant}
    return subject, opened(model, block, subject, method.asks(subject), **options)


def _rows(model, method, **given):
    subject, batch = _opened(model, method, **given)
    with batch as at:
        rows, facts = method.work(at, subject)
        target = np.stack([at.target_class(target) for target in method.targets(subject)], axis=1)
    return subject, {**rows, "target": target}, facts


def _map(model, method, target="predicted", **given):
    subject, batch = _opened(model, method, **given)
    with batch as at:
        return method.maps(at, subject, target)["heatmap"].numpy()


def _replica(model, image, target, window, stride, cover, score):
    """Cover one window after another, run the network, and average drops pixel by pixel."""

    def scored(picture):
        logits = model(torch.from_numpy(picture)[None])[0].numpy()
        if score == "logit":
            return logits[target]
        raised = np.exp(logits - logits.max())
        return raised[target] / raised.sum()

    space = image.shape[1:]
    total, count = np.zeros(space), np.zeros(space)
    base = scored(image)
    starts = []
    for length, size, step in zip(space, window, stride, strict=True):
        places = [0]
        while places[-1] + size < length:
            places.append(places[-1] + step)
        starts.append(places)
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(space)):
        at = tuple(slice(a, a + size) for a, size in zip(corner, window, strict=True))
        covered = image.copy()
        covered[(slice(None), *at)] = cover[(slice(None), *at)]
        total[at] += base - scored(covered)
        count[at] += 1
    return total / count


@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize(
    ("factory", "window", "stride"),
    [
        (conv_net, (4, 3), (3, 2)),
        (conv_net, (5, 5), (5, 1)),
        (residual_net, (3, 2), (2, 2)),
        (signal_net, (7,), (4,)),
    ],
)
def test_agrees_with_one_window_after_another(factory, window, stride, baseline, score):
    model = factory().double()
    method = Occlusion(window=window, stride=stride, baseline=baseline, score=score, target=2)
    images = tiny_images(model, 3).astype(np.float64)
    got = _map(model, method, target=2)
    for image, heatmap in zip(images, got, strict=True):
        mean = image.mean(tuple(range(1, image.ndim)), keepdims=True)
        cover = np.zeros_like(image) if baseline == "zero" else np.broadcast_to(mean, image.shape)
        want = _replica(model, image, 2, window, stride, cover, score)
        np.testing.assert_allclose(heatmap, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factory", [conv_net, signal_net])
def test_agrees_with_captum_where_windows_fit(factory):
    model = factory().double()
    space = type(model).input_shape[1:]
    window, stride = tuple(n // 3 for n in space), tuple(n // 6 if n % 2 == 0 else n // 9 for n in space)
    method = Occlusion(window=window, stride=stride, score="logit")
    images = torch.from_numpy(tiny_images(model, 3)).double()
    peer = captum.attr.Occlusion(model)
    channels = images.shape[1]
    want = peer.attribute(
        images, (channels, *window), strides=(channels, *stride), target=model(images).argmax(1), baselines=0
    )
    np.testing.assert_allclose(_map(model, method), want[:, 0].numpy(), rtol=0, atol=1e-7)


def test_one_covered_pixel_of_a_sum_costs_its_share():
    class Sum(nn.Module):
        input_shape = (1, 4, 6)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)

        def forward(self, x):
            return self.conv(x).sum((2, 3))

    model = Sum().double().eval().requires_grad_(False)
    model.conv.weight[:] = torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)
    images = tiny_images(model, 2).astype(np.float64)
    subject = replace(tiny_subject(model, 2), class_names=("up", "down"))
    for target, factor in ((0, 3), (1, -1)):
        got = _map(model, Occlusion(window=1, score="logit"), target=target, n=2, subject=subject)
        np.testing.assert_allclose(got, factor * images[:, 0], atol=1e-12)


def test_what_the_network_does_not_look_at_costs_nothing():
    model = conv_net().double()
    model.conv1.weight[:, 1:] = 0
    images = tiny_images(model, 3)
    subject = tiny_subject(model, 3)
    method = Occlusion(**SMALL)
    maps = []
    for shift in (0, 5):
        images[:, 1:] += shift
        (block,) = tiny_blocks(images, batch=3)
        with opened(model, block, subject, Ask()) as batch:
            maps.append(method.maps(batch, subject, "predicted")["heatmap"].numpy())
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-9)


def test_the_stored_scores_give_the_map():
    model = conv_net().double()
    method = Occlusion(**SMALL, target="top:3")
    subject, rows, facts = _rows(model, method)
    notes, _, findings = method.told(facts, subject)
    assert findings == ()
    assert notes["recomputation"]["piecewise"] == 3
    assert rows["score"].shape == (3, method.passes(subject), 5)
    for place in range(3):
        row = {path: values[place] for path, values in rows.items()}
        got = render_windows(row, notes["rendering"], subject.input_shape)
        for k, target in enumerate(method.targets(subject)):
            np.testing.assert_allclose(got[k], _map(model, method, target)[place], atol=1e-6)
        assert winning_classes(row, notes["rendering"]).shape == tuple(map(len, notes["rendering"]["start"]))


def test_above_a_hundred_classes_slots_and_the_winner_are_kept(monkeypatch):
    monkeypatch.setattr(scores, "MOST_CLASSES", 3)
    model = conv_net().double()
    method = Occlusion(**SMALL)
    subject, slotted, facts = _rows(model, method)
    rendering = method.told(facts, subject)[0]["rendering"]
    monkeypatch.setattr(scores, "MOST_CLASSES", 100)
    _, whole, _ = _rows(model, method)
    assert "score" not in slotted
    for place in range(3):
        first, second = ({path: values[place] for path, values in rows.items()} for rows in (slotted, whole))
        np.testing.assert_allclose(
            render_windows(first, rendering, subject.input_shape),
            render_windows(second, rendering, subject.input_shape),
        )
        assert np.array_equal(winning_classes(first, rendering), winning_classes(second, rendering))


def test_contrast_is_the_difference_of_both_maps():
    model = conv_net().double()
    subject = tiny_subject(model, 3)
    with _opened(model, Occlusion(), subject=subject)[1] as batch:
        wrong = (batch.target_class("predicted") + 1) % 5
    subject = replace(subject, label=wrong)
    maps = {t: _map(model, Occlusion(**SMALL), t, subject=subject) for t in ("contrast", "predicted", "label")}
    np.testing.assert_allclose(maps["contrast"], maps["predicted"] - maps["label"], atol=1e-12)


def test_noise_belongs_to_the_image():
    model = conv_net().double()
    method = Occlusion(**SMALL, baseline="noise")
    first, again = _map(model, method), _map(model, method)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(_map(model, method, n=2), first[:2], atol=1e-12)
    other = _map(model, method, subject=replace(tiny_subject(model, 3), seed=9))
    assert np.abs(other - first).max() > 1e-6


def test_a_variant_is_run_wholly_and_says_so():
    model = conv_net().double()
    method = Occlusion(**SMALL)
    dead = Ablate("conv2", tuple(range(8)))
    subject, rows, facts = _rows(model, method, variant=dead)
    assert np.ptp(rows["score"], axis=1).max() < 1e-9
    notes, _, (finding,) = method.told(facts, subject)
    assert notes["recomputation"]["wholly"] == 3
    assert finding.severity == "info"
    assert finding.title == "Occlusion was recomputed wholly: the network runs under a variant"


def test_autocast_is_run_wholly_and_says_so():
    model = conv_net()
    method = Occlusion(**SMALL)
    subject, batch = _opened(model, method)
    with batch as at:
        under = at.again(at.images, Ask(), autocast=torch.bfloat16)
        _, facts = method.work(under, subject)
    assert str(facts["reason"]) == "the network runs under autocast"


class Loops(nn.Module):
    """Decides by what it sees."""

    input_shape = (3, 12, 9)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        x = self.conv(x)
        if bool((x > 1e6).any()):
            x = -x
        return x.mean((2, 3))


def test_a_network_that_cannot_be_followed_has_the_same_maps_and_says_so():
    model = Loops().double().eval().requires_grad_(False)
    method = Occlusion(window=(4, 3), stride=(3, 2), target=2)
    subject, _, facts = _rows(model, method)
    image = tiny_images(model, 3).astype(np.float64)[0]
    want = _replica(model, image, 2, (4, 3), (3, 2), np.zeros_like(image), "probability")
    np.testing.assert_allclose(_map(model, method, 2)[0], want, atol=1e-12)
    (finding,) = method.told(facts, subject)[2]
    assert "takes a decision that depends on the values" in finding.title
    assert "3 of 3 images" in finding.detail


def test_bad_images_are_not_looked_at_and_the_sweep_goes_through():
    model = conv_net()
    subject = replace(tiny_subject(model, 5), shard=5)
    leaf = AttributionLeaf("occlusion", Occlusion(**SMALL))
    (task,) = leaf.tasks(subject, StoredFake())
    blocks = list(tiny_blocks(tiny_images(model, 5), batch=2, bad=(3,)))
    (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=True)
    assert outcome.error is None
    finite = np.isfinite(outcome.rows["score"]).all((1, 2))
    assert finite.tolist() == [True, True, True, False, True]
    summary = leaf.finish([outcome.partial], subject, StoredFake())
    assert summary.notes["rendering"]["kind"] == "windows"
    assert summary.notes["recomputation"]["piecewise"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 10}, "at most 9 pixels along x, got 10"),
        ({"window": (4, 3, 2)}, r"expected 2 numbers, one per spatial axis, got \[4, 3, 2\]"),
        ({"window": 3, "stride": 4}, "at most the window's 3 pixels along y, got 4"),
        ({"window": 4, "target": "top:9"}, "top:1 to top:5"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_the_sweep(settings, message):
    model = conv_net()
    with pytest.raises(ConfigError, match=message):
        Occlusion(**settings).writes(tiny_subject(model, 3))


@pytest.mark.parametrize("settings", [{"window": 0}, {"stride": (1, 0)}, {"blur": 0.0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError):
        Occlusion(**settings)
