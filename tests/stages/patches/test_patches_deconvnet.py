"""The deconvnet of single units, against unpooling by switches and transposed filters (Zeiler and Fergus 2014).

The replica walks the layers backwards itself: MaxUnpool with ``output_size``, ConvTranspose with the filters of the
convolution and no bias, a ReLU on the signal.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.contract import Ask, Gradient, Units
from convaudit.stages.network.batch import opened

from ...tiny_models import tiny_blocks, tiny_images, tiny_subject

CONV = {2: nn.Conv2d, 1: nn.Conv1d}
NORM = {2: nn.BatchNorm2d, 1: nn.BatchNorm1d}
POOL = {2: nn.MaxPool2d, 1: nn.MaxPool1d}
TRANSPOSED = {2: F.conv_transpose2d, 1: F.conv_transpose1d}
UNPOOL = {2: F.max_unpool2d, 1: F.max_unpool1d}


class Vgg(nn.Module):
    """Like VGG with batch norm: blocks of convolutions, each followed by a pool, on lengths that are odd."""

    def __init__(self, shape, kernel=2, stride=None, norm=True, ceil=False):
        super().__init__()
        torch.manual_seed(3)
        n, width = len(shape) - 1, shape[0]
        layers = []
        for block in ((5, 6), (7,), (8, 6)):
            for out in block:
                layers.append(CONV[n](width, out, 3, padding=1, stride=2 if out == 7 and stride is None else 1))
                layers += [NORM[n](out)] if norm else []
                layers.append(nn.ReLU(inplace=True))
                width = out
            layers.append(POOL[n](kernel, stride, ceil_mode=ceil))
        self.features, self.input_shape = nn.Sequential(*layers[:-1]), shape
        self.fc = nn.Linear(width, 5)
        for module in self.modules():
            if isinstance(module, tuple(NORM.values())):
                module.running_var.uniform_(0.5, 2.0)
                module.running_mean.normal_(0, 0.2)
                nn.init.uniform_(module.weight, -1.5, 1.5)

    def forward(self, x):
        return self.fc(self.features(x).flatten(2).mean(2))


def projected_by_switches(model, image, at, place):
    """Zeiler and Fergus, section 2.1: one unit kept, the rest zero, down through every layer."""
    n, values, switches = image.ndim - 2, [image], []
    for layer in model.features[: at + 1]:
        value, switch = values[-1], None
        if isinstance(layer, POOL[n]):
            pool = F.max_pool2d if n == 2 else F.max_pool1d
            value, switch = pool(value, layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode, return_indices=True)
        else:
            value = F.relu(value) if isinstance(layer, nn.ReLU) else layer(value)
        values.append(value)
        switches.append(switch)
    signal = torch.zeros_like(values[-1])
    signal[(0, *place)] = 1.0
    for index in range(at, -1, -1):
        layer, before = model.features[index], values[index]
        if isinstance(layer, nn.ReLU):
            signal = F.relu(signal)
        elif isinstance(layer, POOL[n]):
            signal = UNPOOL[n](signal, switches[index], layer.kernel_size, layer.stride, output_size=before.shape)
        elif isinstance(layer, NORM[n]):
            factor = layer.weight / torch.sqrt(layer.running_var + layer.eps)
            signal = signal * factor.view(1, -1, *[1] * n)
        else:
            rest = [
                full - ((short - 1) * layer.stride[0] - 2 * layer.padding[0] + 3)
                for full, short in zip(before.shape[2:], signal.shape[2:], strict=True)
            ]
            signal = TRANSPOSED[n](signal, layer.weight, None, layer.stride, layer.padding, output_padding=rest)
    return signal[0]


def projected(model, images, at, places, subject=None):
    """What the stage asks: another unit in each row, under the rule."""
    subject = subject or tiny_subject(model, len(images))
    (block,) = tiny_blocks(images, batch=len(images))
    target = Units(f"features.{at}", tuple(places))
    with opened(model, block, subject, Ask(gradients=(Gradient(target, "input", "deconvnet"),))) as batch:
        return batch.gradient(target, "input", "deconvnet")


def units(model, images, at):
    """A strong unit in each image, at places that differ."""
    value = model.features[: at + 1](torch.from_numpy(images).double())
    return [
        tuple(int(i) for i in np.unravel_index(int(plane.flatten().argsort()[-1 - row]), plane.shape))
        for row, plane in enumerate(value)
    ]


NETS = {
    "odd lengths": lambda: Vgg((3, 23, 17)),
    "no norm": lambda: Vgg((3, 19, 26), norm=False),
    "ceil": lambda: Vgg((2, 21, 15), ceil=True),
    "signals": lambda: Vgg((2, 45)),
    "pools with gaps": lambda: Vgg((3, 31, 27), kernel=2, stride=3, norm=False),
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_of_a_unit_of_any_layer_it_is_what_the_switches_give(name):
    model = NETS[name]().double().eval().requires_grad_(False)
    images, subject = tiny_images(model, 3), tiny_subject(model, 3)
    seen = 0
    for at in range(len(model.features)):
        places = units(model, images, at)
        got = projected(model, images, at, places, subject)
        for row, place in enumerate(places):
            want = projected_by_switches(model, torch.from_numpy(images[row : row + 1]).double(), at, place)
            scale = float(want.abs().max())
            seen += scale > 0
            np.testing.assert_allclose(got[row], want, rtol=0, atol=1e-10 * max(scale, 1e-3), err_msg=f"layer {at}")
    assert seen > 2 * len(model.features)


def test_where_pools_overlap_what_comes_back_is_added_up_and_not_overwritten():
    model = Vgg((3, 23, 19), kernel=3, stride=2, norm=False).double().eval().requires_grad_(False)
    images = tiny_images(model, 3)
    at = next(i for i, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)) + 1
    value = torch.from_numpy(images).double()
    for layer in model.features[: at - 1]:
        value = layer(value)
    pool = model.features[at - 1]
    _, switch = F.max_pool2d(value, pool.kernel_size, pool.stride, return_indices=True)
    signal = torch.rand(switch.shape, dtype=torch.float64) + 0.5
    added = torch.zeros_like(value).flatten(2).scatter_add(2, switch.flatten(2), signal.flatten(2)).view_as(value)
    value.requires_grad_()
    (gradient,) = torch.autograd.grad(pool(value), value, signal)
    torch.testing.assert_close(gradient, added, rtol=0, atol=0)
    unpooled = F.max_unpool2d(signal, switch, pool.kernel_size, pool.stride, output_size=value.shape)
    assert (unpooled - added).abs().max() > 0.1
    # Where no other window has the same maximum the two agree.
    alone = torch.zeros_like(added).flatten(2).scatter_add(2, switch.flatten(2), torch.ones_like(signal).flatten(2))
    alone = alone.view_as(added) <= 1
    torch.testing.assert_close(unpooled[alone], added[alone], rtol=0, atol=0)
    # And so the projections of deeper units differ, too.
    places = units(model, images, at)
    got = projected(model, images, at, places)
    want = [
        projected_by_switches(model, torch.from_numpy(images[row : row + 1]).double(), at, place)
        for row, place in enumerate(places)
    ]
    gaps = [float((one - other).abs().max() / other.abs().max()) for one, other in zip(got, want, strict=True)]
    assert max(gaps) > 0.01
