import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from torch import nn
from torch.nn import functional as F

from convaudit.pipelines.config import build
from convaudit.stages.attributions.autocast import Autocast
from convaudit.stages.attributions.guided_backprop import GuidedBackprop
from convaudit.stages.attributions.saliency import Saliency
from convaudit.stages.attributions.smooth_grad import SmoothGrad
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.contract import Unit
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...stored_fake import StoredFake
from ...tiny_models import (
    ALL,
    conv_net,
    residual_net,
    signal_net,
    tiny_blocks,
    tiny_images,
    tiny_subject,
)


def _pieces(model):
    """A chain network cut at its ReLUs."""
    if hasattr(model, "pool"):
        return [
            lambda x: model.bn1(model.conv1(x)),
            lambda x: model.bn2(model.conv2(model.pool(x))),
            lambda x: model.fc(x.mean((2, 3))),
        ]
    return [
        lambda x: model.bn1(model.conv1(x)),
        lambda x: model.conv2(F.max_pool1d(x, 2)),
        lambda x: model.fc(x.mean(2)),
    ]


def _replica(model, images, seed_of, stop=2):
    """Guided backpropagation: linear pieces by their plain derivative, ReLUs one number at a time."""
    values, x = [], images
    for i, piece in enumerate(_pieces(model)[: stop + 1]):
        values.append(x)
        z = piece(x)
        x = torch.from_numpy(np.maximum(z.numpy(), 0)) if i < 2 else z
    gradient = seed_of(x)
    for i in reversed(range(stop + 1)):
        z = _pieces(model)[i](values[i])
        if i < 2:
            for at in np.ndindex(*z.shape):
                if z[at] <= 0 or gradient[at] <= 0:
                    gradient[at] = 0
        _, gradient = torch.autograd.functional.vjp(_pieces(model)[i], values[i], gradient)
    return gradient.numpy()


def _logit(target):
    def seed(logits):
        gradient = torch.zeros_like(logits)
        gradient[:, target] = 1
        return gradient

    return seed


def _unit(channel, position=None):
    def seed(value):
        gradient = torch.zeros_like(value)
        for i in range(len(value)):
            plane = value[i, channel].numpy()
            at = position or np.unravel_index(plane.argmax(), plane.shape)
            gradient[(i, channel, *at)] = 1
        return gradient

    return seed


def _attributed(model, method, n=4):
    subject = tiny_subject(model, n)
    (block,) = tiny_blocks(tiny_images(model, n), batch=n)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rows = method.attribute(batch, subject)
        told = method.told(method.facts(batch, subject), subject)
    scale = rows["scale"].reshape(*rows["scale"].shape, *[1] * (rows["heatmap"].ndim - 2))
    return rows["heatmap"].astype(np.float64) * scale, told


def _close(got, want):
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.abs(want).max())


every_chain = pytest.mark.parametrize("factory", [conv_net, signal_net])


@every_chain
@pytest.mark.parametrize("reduction", ["max_abs", "sum_abs", "sum"])
def test_agrees_with_the_replica(factory, reduction):
    model = factory().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    got, _ = _attributed(model, GuidedBackprop(target="all", reduction=reduction))
    for target in range(5):
        gradient = _replica(model, images, _logit(target))
        want = {"max_abs": np.abs(gradient).max(1), "sum_abs": np.abs(gradient).sum(1), "sum": gradient.sum(1)}
        _close(got[:, target], want[reduction])


@every_chain
def test_of_a_unit_where_its_channel_is_largest_and_at_a_place(factory):
    model = factory().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    last = "relu2" if factory is conv_net else "functional_relu#1"
    place = (2, 1) if factory is conv_net else (3,)
    for position in (None, place):
        method = GuidedBackprop(reduction="sum", target_unit=Unit(last, 2, position))
        got, (notes, _, _) = _attributed(model, method)
        want = _replica(model, images, _unit(2, position), stop=1).sum(1)
        assert got.shape == (4, 1, *want.shape[1:])
        _close(got[:, 0], want)
        assert notes["target_unit"]["layer"] == last
        assert notes["rule"] == "guided"


def test_of_a_linear_network_between_positive_weights_it_is_the_gradient():
    model = conv_net().double()
    for module in (model.conv1, model.conv2, model.fc):
        module.weight.abs_()
    for module in (model.bn1, model.bn2):
        module.bias.fill_(50)
    guided, _ = _attributed(model, GuidedBackprop(target=1))
    plain, _ = _attributed(model, Saliency(target=1))
    _close(guided, plain)


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_scaling_the_logits_scales_the_map(factor):
    model, scaled = residual_net().double(), residual_net().double()
    scaled.fc.weight.mul_(factor)
    first, second = (_attributed(net, GuidedBackprop(target=2))[0] for net in (model, scaled))
    _close(second, factor * first)


def test_agrees_with_captum_on_modules():
    model = conv_net().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    want = CaptumGuidedBackprop(model).attribute(images.clone().requires_grad_(), target=3).abs().amax(1).detach()
    got, _ = _attributed(model, GuidedBackprop(target=3))
    _close(got[:, 0], want.numpy())


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_is_not_the_gradient_and_says_what_it_caught(name):
    model = ALL[name]().double()
    guided, (notes, measurements, findings) = _attributed(model, GuidedBackprop())
    plain, _ = _attributed(model, Saliency())
    assert np.abs(guided - plain).max() > 0.05 * np.abs(plain).max()
    assert notes["relu_calls"] == {"conv": 2, "functional": 5, "residual": 5, "signal": 2}[name]
    assert (measurements, findings) == ((), ())


def _swept(model, method, bad=()):
    subject, images = tiny_subject(model, shard=6), tiny_images(model)
    (leaf,) = Attributions({"map": method}).leaves()
    (task,) = leaf.tasks(subject, None)
    (outcome,) = run_tasks(
        model, [(leaf, task)], tiny_blocks(images, bad=bad), subject, device="cpu", channels_last=False
    )
    assert outcome.error is None
    stored = StoredFake({f"{leaf.name}/{path}": array for path, array in outcome.rows.items()})
    return outcome.rows, leaf.finish([outcome.partial], subject, stored)


def test_a_unit_is_stored_without_a_class():
    rows, summary = _swept(conv_net(), GuidedBackprop(target_unit=Unit("relu1", 1)), bad=(4,))
    assert rows["target"].tolist() == [[-1]] * 6
    assert np.isnan(rows["heatmap"][4]).all()
    assert np.isfinite(np.delete(rows["heatmap"], 4, 0)).all()
    assert summary.notes["target_unit"] == {"layer": "relu1", "channel": 1, "position": None}
    assert summary.notes["rendering"]["kind"] == "pixels"


@pytest.mark.parametrize("wrapper", [SmoothGrad, Autocast])
def test_other_methods_can_run_it_for_a_unit(wrapper):
    method = GuidedBackprop(target_unit=Unit("relu2", 1))
    rows, summary = _swept(conv_net(), wrapper(method=method))
    assert rows["target"].tolist() == [[-1]] * 6
    assert np.isfinite(rows["heatmap"]).all()
    assert np.abs(rows["heatmap"]).max() > 0
    assert summary.notes["relu_calls"] == 2


def test_a_unit_that_is_closed_is_a_blank_map_and_named():
    model = conv_net()
    model.bn1.bias[1] = -1e3
    _, summary = _swept(model, GuidedBackprop(target_unit=Unit("relu1", 1)), bad=(4,))
    (finding,) = summary.findings
    assert finding.code == "attributions/blank"
    assert finding.images == (0, 1, 2, 3, 5)


class Gated(nn.Module):
    """ReLUs and others."""

    input_shape = (3, 6, 5)

    def __init__(self, relu):
        super().__init__()
        self.relu = relu
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Linear(4, 5)

    def forward(self, x):
        x = self.act(self.conv(x))
        x = F.relu(x) if self.relu else x
        return self.fc((F.gelu(x) * torch.sigmoid(x)).mean((2, 3)))


def test_networks_with_other_nonlinearities_are_warned_of():
    model = Gated(relu=True).eval().requires_grad_(False)
    _, (notes, _, (finding,)) = _attributed(model, GuidedBackprop())
    assert notes["relu_calls"] == 1
    assert finding.code == "attributions/rule-partial"
    assert finding.severity == "warning"
    assert "1 of 4 nonlinearities" in finding.title
    assert "gelu 1, sigmoid 1, silu 1" in finding.detail


def test_networks_without_a_relu_are_refused_before_the_sweep():
    subject = tiny_subject(Gated(relu=False).eval().requires_grad_(False))
    with pytest.raises(ConfigError, match=r"GuidedBackprop: the network has no ReLU among its .*SiLU.*use saliency"):
        GuidedBackprop().asks(subject)


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        (Unit("relu3", 0), "did you mean"),
        (Unit("relu*", 0), "the name of one layer"),
        (Unit("relu1", 6), "expected 0 to 5 in relu1, got 6"),
        (Unit("relu1", -1), "expected 0 to 5"),
        (Unit("relu1", 0, (12, 0)), r"a place in \(12, 9\)"),
        (Unit("relu1", 0, (3,)), r"a place in \(12, 9\)"),
        (Unit("conv1", 0), "no ReLU comes before conv1"),
    ],
)
def test_units_that_there_are_not(unit, why):
    with pytest.raises(ConfigError, match=why):
        GuidedBackprop(target_unit=unit).asks(tiny_subject(conv_net()))


def test_a_unit_and_a_class_exclude_each_other():
    with pytest.raises(ConfigError, match="both set"):
        GuidedBackprop(target=3, target_unit=Unit("relu1", 0))


def test_a_unit_can_be_named_in_the_config():
    kind = f"{GuidedBackprop.__module__}.GuidedBackprop"
    method = build({"_target_": kind, "target_unit": {"layer": "fc", "channel": 1, "position": None}}, "here")
    assert method == GuidedBackprop(target_unit=Unit("fc", 1))
    method = build({"_target_": kind, "target_unit": {"layer": "conv2", "channel": 1, "position": [2, 3]}}, "here")
    assert method.target_unit == Unit("conv2", 1, (2, 3))
    with pytest.raises(ConfigError, match="chanel: no such setting"):
        build({"_target_": kind, "target_unit": {"layer": "fc", "chanel": 1}}, "here")


def test_a_unit_of_the_logits_is_the_class():
    model = residual_net().double()
    unit, _ = _attributed(model, GuidedBackprop(target_unit=Unit("fc", 3)))
    logit, _ = _attributed(model, GuidedBackprop(target=3))
    np.testing.assert_array_equal(unit, logit)
