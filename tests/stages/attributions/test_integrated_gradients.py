import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import nn

from convaudit.stages.attributions.integrated_gradients import IntegratedGradients, nodes
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake
from ...tiny_models import ALL, conv_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _maps(model, method, n=4, **changes):
    subject = replace(tiny_subject(model, n), **changes)
    (block,) = tiny_blocks(tiny_images(model, n), batch=n)
    with opened(model, block, subject, method.asks(subject)) as batch:
        maps = [method.maps(batch, subject, target)["heatmap"].numpy() for target in method.targets(subject)]
        return np.stack(maps, 1), method.attribute(batch, subject)


def _points(quadrature, steps):
    """Points and weights on 0..1 from textbooks; Gauss and Legendre for three points."""
    if quadrature == "gauss_legendre":
        far = math.sqrt(3 / 5) / 2
        return [(0.5 - far, 5 / 18), (0.5, 8 / 18), (0.5 + far, 5 / 18)]
    if quadrature == "midpoint":
        return [((2 * k + 1) / (2 * steps), 1 / steps) for k in range(steps)]
    return [(k / (steps - 1), (0.5 if k in (0, steps - 1) else 1.0) / (steps - 1)) for k in range(steps)]


def _replica(model, image, start, target, points):
    """Equation 1 of the paper for one image, one point after another."""
    total = np.zeros(image.shape)
    for alpha, weight in points:
        at = torch.from_numpy(start + alpha * (image - start))[None].requires_grad_()
        model(at)[0, target].backward()
        total += weight * at.grad[0].numpy()
    return ((image - start) * total).sum(0)


@pytest.mark.parametrize("net", [conv_net, signal_net])
@pytest.mark.parametrize("quadrature", ["gauss_legendre", "midpoint", "trapezoid"])
@pytest.mark.parametrize("kind", ["zero", "black"])
def test_equals_the_paper_step_by_step(net, quadrature, kind):
    model = net().double()
    images = tiny_images(model, 4).astype(np.float64)
    start = np.full(images[0].shape, 0.0 if kind == "zero" else -0.5 / 0.25)
    got, rows = _maps(model, IntegratedGradients(target=2, baseline=kind, steps=3, quadrature=quadrature))
    for i, image in enumerate(images):
        want = _replica(model, image, start, 2, _points(quadrature, 3))
        np.testing.assert_allclose(got[i, 0], want, atol=1e-12 * np.abs(want).max())
        change = float(model(torch.from_numpy(np.stack([image, start])))[:, 2].diff().neg())
        assert rows["change"][i, 0] == pytest.approx(change, rel=1e-6)
        assert rows["gap"][i, 0] == pytest.approx(want.sum() - change, rel=1e-5, abs=1e-7)
        stored = rows["heatmap"][i, 0] * rows["scale"][i, 0].astype(float)
        np.testing.assert_allclose(stored, want, atol=1e-3 * np.abs(want).max())


def test_weights_add_up_and_integrate_what_they_should():
    for quadrature, exact in (("gauss_legendre", 9), ("midpoint", 1), ("trapezoid", 1)):
        points, weights = nodes(quadrature, 5)
        assert ((points >= 0) & (points <= 1)).all()
        for power in range(exact + 1):
            assert (weights * points**power).sum() == pytest.approx(1 / (power + 1), rel=1e-12)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize(("mine", "theirs"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_agrees_with_captum(name, mine, theirs):
    model = ALL[name]().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    target = model(images).argmax(1)
    want = CaptumIntegratedGradients(model).attribute(images, target=target, n_steps=7, method=theirs)
    want = want.sum(1).detach().numpy()
    got, _ = _maps(model, IntegratedGradients(steps=7, quadrature=mine))
    # Captum weighs the steps in single precision.
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-6, atol=1e-7 * np.abs(want).max())


class Linear(nn.Module):
    input_shape = (3, 4, 5)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (4, 5))

    def forward(self, x):
        return self.conv(x).flatten(1)


@pytest.mark.parametrize("quadrature", ["gauss_legendre", "midpoint", "trapezoid"])
def test_of_a_linear_network_it_is_weight_times_input_without_a_gap(quadrature):
    model = Linear().double().eval().requires_grad_(False)
    got, rows = _maps(model, IntegratedGradients(target=1, steps=2, quadrature=quadrature))
    want = (model.conv.weight[1].numpy() * tiny_images(model, 4)).sum(1)
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rows["gap"], 0, atol=1e-12)


@pytest.mark.parametrize("kind", ["zero", "black", "mean", "blur"])
def test_more_steps_close_the_gap(kind):
    gaps = []
    for steps in (4, 256):
        _, rows = _maps(conv_net().double(), IntegratedGradients(target="all", baseline=kind, steps=steps))
        gaps.append(np.abs(rows["gap"]).mean() / np.abs(rows["change"]).mean())
    assert gaps[1] < 1e-2
    assert gaps[1] < gaps[0] / 5


def test_an_unused_channel_gets_nothing():
    """Sensitivity (b) of the paper: here, changing such a channel changes nothing in the map of a blind network."""
    model = conv_net().double()
    model.conv1.weight[:, 1] = 0
    subject = tiny_subject(model, 2)
    images = tiny_images(model, 2)
    other = images.copy()
    other[:, 1] += 3
    method, found = IntegratedGradients(target=0, steps=4), []
    for fed in (images, other):
        (block,) = tiny_blocks(fed, batch=2)
        with opened(model, block, subject, method.asks(subject)) as batch:
            found.append(method.maps(batch, subject, 0)["heatmap"].numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10, atol=1e-14)


def test_steps_may_share_a_pass_or_not():
    model = conv_net().double()
    method = IntegratedGradients(target="all", steps=5)
    want, _ = _maps(model, method, batch=1)
    for batch in (8, 13, 64):
        got, _ = _maps(model, method, batch=batch)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_contrast_is_the_difference_of_two_maps():
    model = conv_net().double()
    predicted = model(torch.from_numpy(tiny_images(model, 4)).double()).argmax(1).numpy()
    label = (predicted + np.array([0, 1, 2, 3])) % 5
    maps, rows = {}, {}
    for target in ("contrast", "predicted", "label"):
        maps[target], rows[target] = _maps(model, IntegratedGradients(target=target, steps=3), label=label)
    assert np.isnan(maps["contrast"][0]).all()
    assert np.isnan([rows["contrast"]["gap"][0], rows["contrast"]["change"][0]]).all()
    for found in (maps, *({k: v[name] for k, v in rows.items()} for name in ("gap", "change"))):
        want = found["predicted"][1:] - found["label"][1:]
        np.testing.assert_allclose(found["contrast"][1:], want, rtol=1e-4, atol=1e-6)


def _forwards(model, leaves, subject, images):
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        jobs = [(leaf, leaf.tasks(subject, StoredFake())[0]) for leaf in leaves]
        outcomes = run_tasks(model, jobs, tiny_blocks(images, 3), subject, device="cpu", channels_last=False)
    finally:
        handle.remove()
    assert [outcome.error for outcome in outcomes] == [None] * len(leaves)
    return len(calls), outcomes


def test_all_targets_share_their_forward_passes():
    model = conv_net()
    subject = tiny_subject(model, 3, shard=3, batch=3)
    for target in (0, "all"):
        leaves = Attributions({"ig": IntegratedGradients(target=target, steps=4)}).leaves()
        # The shared pass, four steps, and the baseline.
        assert _forwards(model, leaves, subject, tiny_images(model, 3))[0] == 6


def _summary(method):
    model = conv_net().double()
    subject = tiny_subject(model, 3, shard=3, batch=3)
    (leaf,) = Attributions({"ig": method}).leaves()
    _, (outcome,) = _forwards(model, [leaf], subject, tiny_images(model, 3))
    stored = StoredFake({f"attributions/ig/{path}": rows for path, rows in outcome.rows.items()})
    return leaf.finish([outcome.partial], subject, stored), outcome.rows


def test_a_large_gap_is_a_finding():
    summary, rows = _summary(IntegratedGradients(target="all", steps=1, tolerance=1e-6))
    share = np.abs(rows["gap"].astype(float)) / np.abs(rows["change"].astype(float))
    (measured,) = summary.measurements
    assert (measured.name, measured.path) == ("attributions/ig/gap", "attributions/ig/gap")
    assert measured.value == pytest.approx(np.median(share))
    assert measured.n == 15
    (finding,) = summary.findings
    assert finding.code == "attributions/incomplete"
    assert "use more steps" in finding.detail
    assert finding.images == tuple(np.argsort(-share.max(1)))


def test_a_small_gap_is_none():
    summary, _ = _summary(IntegratedGradients(target=1, steps=200))
    assert summary.findings == ()
    assert summary.measurements[0].value < 0.01


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"steps": 0}, "at least 1, got 0"),
        ({"steps": 1, "quadrature": "trapezoid"}, "at least 2, got 1"),
        ({"blur": 0.0}, "blur: expected above 0"),
        ({"tolerance": 0.0}, "tolerance: expected above 0"),
    ],
)
def test_settings_out_of_range(wrong, why):
    with pytest.raises(ConfigError, match=why):
        IntegratedGradients(**wrong)
