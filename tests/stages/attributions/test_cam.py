from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.attributions.cam import Cam
from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.stage import Attributions
from convaudit.stages.contract import Ablate, Randomise
from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import (
    conv_net,
    functional_net,
    residual_net,
    signal_net,
    tiny_blocks,
    tiny_images,
    tiny_subject,
)

POOLED = [(conv_net, "relu2"), (residual_net, "block2"), (signal_net, "functional_relu#1")]
every_pooled = pytest.mark.parametrize(("factory", "layer"), POOLED)


def _replica(activation, weight):
    """Equation 2 of Zhou et al. 2016, one number at a time."""
    heatmap = np.zeros((len(activation), len(weight), *activation.shape[2:]))
    for i in range(len(activation)):
        for c in range(len(weight)):
            for where in np.ndindex(*activation.shape[2:]):
                heatmap[i, c][where] = sum(weight[c, k] * activation[i, k][where] for k in range(activation.shape[1]))
    return heatmap


def _rows(model, method, layer, variant=None, bad=()):
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4, bad=bad)
    more = {} if variant is None else {"variant": variant}
    with opened(model, block, subject, method.asks(subject), **more) as batch:
        rows = method.attribute(batch, subject)[f"{layer}/heatmap"]
        again = [method.layer_map(batch, subject, target, layer).numpy() for target in method.targets(subject)]
        np.testing.assert_allclose(np.stack(again, 1), rows, rtol=1e-6, atol=1e-6)
        return rows, batch.activation(layer).numpy(), batch.logits.numpy()


@every_pooled
def test_agrees_with_the_equation(factory, layer):
    model = factory().double()
    rows, activation, logits = _rows(model, Cam(target="all"), layer)
    np.testing.assert_allclose(rows, _replica(activation, model.fc.weight.numpy()), rtol=1e-5, atol=1e-7)
    mean = rows.reshape(4, 5, -1).mean(2)
    np.testing.assert_allclose(mean, logits - model.fc.bias.numpy(), rtol=1e-5, atol=1e-6)


@every_pooled
def test_grad_cam_there_is_cam_over_the_number_of_positions(factory, layer):
    model = factory().double()
    (cam, activation, _), (grad_cam, _, _) = (
        _rows(model, method, layer) for method in (Cam(target=3), GradCam(target=3, relu=False))
    )
    assert np.abs(cam).max() > 0
    np.testing.assert_allclose(cam / np.prod(activation.shape[2:]), grad_cam, rtol=1e-6)
    # Not by the same shortcut: the derivative itself.
    images = torch.from_numpy(tiny_images(model, 4)).double()
    seen = {}
    name = layer.partition(".")[0]
    if isinstance(getattr(model, name, None), nn.Module):
        handle = getattr(model, name).register_forward_hook(lambda _m, _i, out: seen.setdefault("map", out + 0))
        with torch.enable_grad():
            model(images.requires_grad_())
        handle.remove()
        kept = seen["map"].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.fc(kept.mean((2, 3)))[:, 3].sum(), kept)
        want = (gradient.mean((2, 3), keepdim=True) * kept.detach()).sum(1).numpy()
        np.testing.assert_allclose(cam[:, 0] / np.prod(want.shape[1:]), want, rtol=1e-5, atol=1e-9)


def test_no_derivative_is_computed(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    model = conv_net()
    assert Cam(target="all").asks(tiny_subject(model)).gradients == ()
    rows, _, _ = _rows(model, Cam(target="all"), "relu2")
    assert rows.shape[:2] == (4, 5)


def test_of_two_logits_that_are_swapped_the_maps_are():
    model, swapped = conv_net().double(), conv_net().double()
    swapped.fc.weight.copy_(model.fc.weight[[1, 0, 2, 3, 4]])
    swapped.fc.bias.copy_(model.fc.bias[[1, 0, 2, 3, 4]])
    first, second = (_rows(net, Cam(target="all"), "relu2")[0] for net in (model, swapped))
    np.testing.assert_array_equal(first, second[:, [1, 0, 2, 3, 4]])


def test_predicted_contrast_and_bad_images():
    model = conv_net().double()
    subject = replace(tiny_subject(model, 4), label=np.array([0, 1, 2, 3]))
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4, bad=(1,))
    found = {}
    for target in ("predicted", "label", "contrast"):
        method = Cam(target=target)
        with opened(model, block, subject, method.asks(subject)) as batch:
            found[target] = method.attribute(batch, subject)["relu2/heatmap"][:, 0]
            predicted = batch.target_class("predicted")
    want = found["predicted"] - found["label"]
    want[predicted == subject.label] = np.nan
    np.testing.assert_allclose(found["contrast"], want, atol=1e-6)
    assert all(np.isnan(rows[1]).all() for rows in found.values())
    assert np.isfinite(found["predicted"][[0, 2, 3]]).all()


def test_under_a_variant_its_own_weights_count():
    model = conv_net().double()
    plain, _, _ = _rows(model, Cam(target=2), "relu2")
    drawn, activation, logits = _rows(model, Cam(target=2), "relu2", Randomise(("fc",), 1))
    assert not np.allclose(plain, drawn)
    assert np.ptp(drawn[:, 0].mean((1, 2)) - logits[:, 2]) == pytest.approx(0, abs=1e-6)
    silent, _, _ = _rows(model, Cam(target=2), "relu2", Ablate("relu2", (0, 1)))
    weight = model.fc.weight[2].numpy().copy()
    weight[:2] = 0
    np.testing.assert_allclose(silent[:, 0], np.einsum("k,bkyx->byx", weight, activation), rtol=1e-5, atol=1e-7)


class Net(nn.Module):
    """Several ends, most of which are not global average pooling and a linear layer."""

    input_shape = (2, 6, 5)

    def __init__(self, end):
        super().__init__()
        self.end = end
        self.conv = nn.Conv2d(2, 4, 2)
        self.fc = nn.Linear(80 if end == "flat" else 4, 5)
        self.conv2 = nn.Conv2d(4, 5, 1)
        if end == "convolution":
            del self.fc
        if end == "hidden":
            self.last = nn.Linear(5, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        match self.end:
            case "flat":
                return self.fc(x.flatten(1))
            case "convolution":
                return self.conv2(x).mean((2, 3))
            case "hidden":
                return self.last(self.fc(x.mean((2, 3))))
            case "largest":
                return self.fc(x.amax((2, 3)))
            case "log_softmax":
                return F.log_softmax(self.fc(x.mean((2, 3))), 1)
        return self.fc(x.mean((2, 3)))


def _net(end):
    torch.manual_seed(0)
    return Net(end).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("flat", r"fc, gets \(80,\) features, not one for each of the 4 channels of functional_relu"),
        ("hidden", r"last, gets \(5,\) features"),
        ("convolution", "no linear layer"),
    ],
)
def test_networks_that_end_otherwise_are_refused_before_the_sweep(end, why):
    subject = tiny_subject(_net(end))
    method = Cam(layers=("functional_relu",))
    with pytest.raises(ConfigError, match=why):
        method.asks(subject)
    with pytest.raises(ConfigError, match=why):
        method.writes(subject)


def test_networks_without_a_convolution_are_refused():
    subject = tiny_subject(_net("pooled"))
    subject = replace(subject, layers=tuple(layer for layer in subject.layers if layer.kind != "conv"))
    with pytest.raises(ConfigError, match="no convolution among its"):
        Cam().asks(subject)


def test_two_layers_and_two_linear_layers_are_refused():
    with pytest.raises(ConfigError, match="the one layer that is pooled"):
        Cam(layers=("kind:conv",)).asks(tiny_subject(conv_net()))
    with pytest.raises(ConfigError, match="fc2, gets"):
        Cam().asks(tiny_subject(functional_net()))


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("largest", "expected the input of fc to be the mean of functional_relu"),
        ("log_softmax", "expected the network's output to be what fc makes"),
    ],
)
def test_values_that_do_not_agree_name_the_image(end, why):
    model = _net(end)
    subject, images = tiny_subject(model), tiny_images(model)
    (leaf,) = Attributions({"cam": Cam()}).leaves()
    (task, *_) = leaf.tasks(subject, None)
    blocks = tiny_blocks(images[:4], batch=2, bad=(0,))
    (outcome,) = run_tasks(model, [(leaf, task)], blocks, subject, device="cpu", channels_last=False)
    assert "image image-001" in outcome.error
    assert why in outcome.error


def test_a_layer_before_the_pooled_one_is_noticed():
    model = residual_net()
    with pytest.raises(StageError, match="to be the mean of block1"):
        _rows(model, Cam(layers=("block1",)), "block1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_disagreement(dtype):
    model = conv_net().to(dtype)
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4) * 30, batch=4)
    with opened(model, block, subject, Cam(target="all").asks(subject)) as batch:
        rows = Cam(target="all").attribute(batch, subject)["relu2/heatmap"]
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()


def test_under_autocast_it_still_works():
    model = conv_net()
    subject = tiny_subject(model, 4)
    method = Cam(target="all")
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        want = method.attribute(batch, subject)["relu2/heatmap"]
        short = batch.again(batch.images, method.asks(subject), autocast=torch.bfloat16)
        got = method.attribute(short, subject)["relu2/heatmap"]
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_logits_that_are_not_finite_are_a_finding_not_a_crash():
    model = conv_net()
    model.conv1.weight[0] = float("nan")
    subject, images = tiny_subject(model), tiny_images(model)
    (leaf,) = Attributions({"cam": Cam(target=1)}).leaves()
    outcomes = [
        outcome
        for task in leaf.tasks(subject, None)
        for outcome in run_tasks(
            model,
            [(leaf, task)],
            tiny_blocks(images[task.images.start : task.images.stop], start=task.images.start),
            subject,
            device="cpu",
            channels_last=False,
        )
    ]
    assert [outcome.error for outcome in outcomes] == [None, None]
    summary = leaf.finish([outcome.partial for outcome in outcomes], subject, None)
    assert [finding.code for finding in summary.findings] == ["attributions/not-finite"]
