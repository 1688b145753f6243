"""Networks whose receptive fields are held against what gradients reach, and how that is done."""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.network.fields import map_fields
from convaudit.stages.receptive_fields.boxes import box, group_of, reach
from convaudit.stages.receptive_fields.description import columns, described


def field_of(model, layer, shape):
    return map_fields(model.eval(), [layer], shape)[layer]


def row_of(seen, shape):
    """Size, stride and padding per axis, and the status."""
    found = {key: value[0] for key, value in columns([seen], shape[1:]).items()}
    padding = (found["local"] - 1) / 2 - found["centre"]
    return found["local"].tolist(), found["stride"].tolist(), padding.tolist(), int(found["status"])


class Kinds(nn.Module):
    """Everything that moves windows, along two axes of different lengths."""

    def __init__(self):
        super().__init__()
        self.dilated = nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1))
        self.ceiled = nn.AvgPool2d((2, 3), stride=(2, 2), ceil_mode=True, padding=(0, 1))
        self.depthwise = nn.Conv2d(4, 8, 3, padding=(0, 1), groups=4)
        self.grouped = nn.Conv2d(8, 6, (1, 3), groups=2)
        self.raised = nn.ConvTranspose2d(6, 4, (3, 4), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2)
        self.near = nn.Upsample(scale_factor=2)
        self.lines = nn.Upsample(size=(30, 53), mode="bilinear")
        self.edges = nn.Upsample(size=(41, 27), mode="bilinear", align_corners=True)
        self.uneven = nn.AdaptiveAvgPool2d((9, 13))
        self.last = nn.Conv2d(4, 3, 2)

    def forward(self, x):
        x = self.grouped(self.depthwise(self.ceiled(self.dilated(x))))
        return self.last(self.uneven(self.edges(self.lines(self.near(self.raised(x))))))


class Lines(nn.Module):
    """The same along one axis."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 5, stride=3, padding=2)
        self.pool = nn.AvgPool1d(2, ceil_mode=True)
        self.raised = nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1)
        self.lines = nn.Upsample(scale_factor=3, mode="linear")
        self.last = nn.Conv1d(4, 2, 3, dilation=2)

    def forward(self, x):
        return self.last(self.lines(self.raised(self.pool(self.conv(x)))))


class Paths(nn.Module):
    """Residuals, a concatenation, a shuffle of channels, a cut, padding, and an option A shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 4, (5, 3), padding=(2, 1))
        self.added = nn.Identity()
        self.joined = nn.Identity()
        self.shuffled = nn.Identity()
        self.split = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.short = nn.Identity()
        self.last = nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        x = self.added(x + F.relu(self.wide(x)))
        x = self.joined(torch.cat([x[:, :2], F.pad(F.avg_pool2d(x[:, 2:], 3, 1), (1, 1, 1, 1))], 1))
        n, c, h, w = x.shape
        x = self.shuffled(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        short = self.short(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        return self.last(F.pad(self.split(x), (0, 0, 0, 0, 2, 0)) + short)


class Gates(nn.Module):
    """Squeeze and excitation, by a convolution and by a vector; then a map of attention over space."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.squeeze = nn.Linear(4, 4)
        self.gated = nn.Identity()
        self.after = nn.Conv2d(4, 4, 3)
        self.normed = nn.GroupNorm(2, 4)
        self.last = nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        x = self.gated(x * self.squeeze(x.mean((2, 3))).sigmoid().view(-1, 4, 1, 1))
        x = self.normed(self.after(x))
        return self.last(x * torch.cat([x.mean(1, True), x.amax(1, True)], 1).mean(1, keepdim=True).sigmoid())


def generous(model):
    """A copy in which nothing is zero by chance: positive weights, means for maxima, no dead ReLU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
            elif isinstance(child, (nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU)):
                setattr(module, name, nn.Softplus())
    with torch.no_grad():
        for parameter in model.parameters():
            # Means over what is added up, so that nothing grows with the depth.
            parameter.fill_(1.0 / max(1, parameter[0].numel() if parameter.ndim > 1 else 1))
    return model.double().eval().requires_grad_(False)


def reached_pixels(model, layer, shape, units):
    """Pixels with a gradient, by unit; each a mask over space."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, *shape, dtype=torch.float64, generator=generator).add(0.1).requires_grad_()
    model(image)
    handle.remove()
    for channel, *position in units:
        value = kept[0][(0, channel, *position)]
        (gradient,) = torch.autograd.grad(value, image, retain_graph=True) if value.requires_grad else (None,)
        yield np.zeros(shape[1:], bool) if gradient is None else (gradient[0] != 0).any(0).numpy(), tuple(kept[0].shape)


def ends_of(mask):
    ends = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        ends.append((hit[0], hit[-1] + 1))
    return tuple(ends)


def compare(model, layer, shape, units):
    """Gradients reach nothing outside the box; and its ends, where it lies in the image as a whole."""
    groups = described(field_of(model, layer, shape), shape[1:])
    complete = 0
    for unit, (mask, _) in zip(units, reached_pixels(model, layer, shape, units), strict=True):
        group = group_of(groups, unit[0])
        expected = box(group, unit[1:], shape)
        inside = np.zeros(shape[1:], bool)
        inside[tuple(slice(*span) for span in expected)] = True
        assert not (mask & ~inside).any(), (layer, unit, expected)
        if expected == reach(group, unit[1:]) and inside.any():
            complete += 1
            assert ends_of(mask) == expected, (layer, unit)
    return complete


def all_units(model, layer, shape):
    channels, *size = size_of(model, layer, shape)
    return [(channel, *place) for channel in range(channels) for place in itertools.product(*map(range, size))]


def size_of(model, layer, shape):
    return next(reached_pixels(model, layer, shape, [(0,) * len(shape)]))[1][1:]
