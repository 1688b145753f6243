import numpy as np
import pytest
import torch
from captum.attr import Deconvolution
from torch.nn import functional as F

from convaudit.stages.attributions.deconvnet import Deconvnet
from convaudit.stages.attributions.guided_backprop import GuidedBackprop
from convaudit.stages.contract import Unit
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened

from ...tiny_models import ALL, conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


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


def _rectified(signal):
    return torch.from_numpy(np.maximum(signal.numpy(), 0))


def _unpool(signal, value, size=2):
    """Put each value where the maximum of its window was (the switches), one number at a time; windows of 2."""
    out = torch.zeros_like(value)
    for at in np.ndindex(*signal.shape):
        window = tuple(slice(size * i, size * i + size) for i in at[2:])
        patch = value[(*at[:2], *window)].numpy()
        place = np.unravel_index(patch.argmax(), patch.shape)
        out[(*at[:2], *(size * i + p for i, p in zip(at[2:], place, strict=True)))] = signal[at]
    return out


def _scaled(signal, norm):
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return signal * factor.view(1, -1, *[1] * (signal.ndim - 2))


def _replica(model, images, target):
    """Section 2.1 of Zeiler and Fergus 2014: unpool by switches, rectify, filter with the transposed filters."""
    two = images.ndim == 4
    transposed = F.conv_transpose2d if two else F.conv_transpose1d
    first = torch.relu(model.bn1(model.conv1(images)))
    pooled = model.pool(first) if two else F.max_pool1d(first, 2)
    last = model.conv2(pooled)
    space = tuple(last.shape[2:])
    weight = model.fc.weight[target] / np.prod(space)
    signal = weight.view(1, -1, *[1] * len(space)).expand_as(last)
    signal = _rectified(signal)
    signal = transposed(_scaled(signal, model.bn2) if two else signal, model.conv2.weight)
    signal = _rectified(_unpool(signal, first))
    return transposed(_scaled(signal, model.bn1), model.conv1.weight, padding=model.conv1.padding)


@pytest.mark.parametrize("factory", [conv_net, signal_net])
@pytest.mark.parametrize("reduction", ["max_abs", "sum"])
def test_agrees_with_the_replica(factory, reduction):
    model = factory().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    got, _ = _attributed(model, Deconvnet(target="all", reduction=reduction))
    for target in range(5):
        want = _replica(model, images, target)
        _close(got[:, target], (want.abs().amax(1) if reduction == "max_abs" else want.sum(1)).numpy())


def test_of_a_unit_right_after_the_first_relu_it_is_its_filter():
    model = conv_net().double()
    got, (notes, _, _) = _attributed(model, Deconvnet(reduction="sum", target_unit=Unit("relu1", 2, (5, 4))))
    want = torch.zeros(12, 9, dtype=torch.float64)
    want[4:7, 3:6] = _scaled(model.conv1.weight[2].sum(0).expand(1, 6, 3, 3), model.bn1)[0, 2]
    for heatmap in got[:, 0]:
        # Closed or open: the deconvnet does not ask the ReLU.
        _close(heatmap, want.numpy())
    assert notes["target_unit"]["position"] == (5, 4)


def test_agrees_with_captum_on_modules():
    model = conv_net().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    want = Deconvolution(model).attribute(images.clone().requires_grad_(), target=3).abs().amax(1).detach()
    got, _ = _attributed(model, Deconvnet(target=3))
    _close(got[:, 0], want.numpy())


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_scaling_the_logits_scales_the_map(factor):
    model, scaled = residual_net().double(), residual_net().double()
    scaled.fc.weight.mul_(factor)
    first, second = (_attributed(net, Deconvnet(target=2))[0] for net in (model, scaled))
    _close(second, factor * first)


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_differs_from_guided_backpropagation(name):
    model = ALL[name]().double()
    deconvnet, (notes, _, _) = _attributed(model, Deconvnet())
    guided, _ = _attributed(model, GuidedBackprop())
    assert np.abs(deconvnet - guided).max() > 0.05 * np.abs(guided).max()
    assert notes["rule"] == "deconvnet"
    assert notes["relu_calls"] > 0


def test_refuses_what_guided_backpropagation_refuses():
    subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match=r"Deconvnet\.target_unit\.channel"):
        Deconvnet(target_unit=Unit("relu1", 6)).asks(subject)
    with pytest.raises(ConfigError, match="0 to 4"):
        Deconvnet(target=5).asks(subject)
