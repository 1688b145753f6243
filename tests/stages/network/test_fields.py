"""Receptive fields against published numbers, the recurrences of a paper, and what gradients reach."""

import itertools
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from convaudit.stages.errors import StageError
from convaudit.stages.network.fields import map_fields
from convaudit.stages.receptive_fields.boxes import box, group_of, groups_of_channels, reach
from convaudit.stages.receptive_fields.description import columns, described, runs

from ...tiny_models import ALL


def _seen(model, layer, shape):
    return map_fields(model.eval(), [layer], shape)[layer]


def _row(seen, shape):
    """Size, stride and padding per axis, and the status."""
    found = {key: value[0] for key, value in columns([seen], shape[1:]).items()}
    padding = (found["local"] - 1) / 2 - found["centre"]
    return found["local"].tolist(), found["stride"].tolist(), padding.tolist(), int(found["status"])


#: Size, stride and padding; of VGG, AlexNet and ResNet from the tables of TF-slim where the architecture is the same.
PUBLISHED = {
    "vgg16": {
        "features.0": (3, 1, 1),
        "features.4": (6, 2, 2),
        "features.16": (44, 8, 18),
        "features.28": (196, 16, 90),
        "features.30": (212, 32, 90),
    },
    "vgg11": {"features.20": (150, 32, 59)},
    "alexnet": {"features.0": (11, 4, 2), "features.12": (195, 32, 66)},
    "resnet18": {"layer4": (435, 32, 217)},
    "resnet50": {"layer1": (35, 4, 17), "layer4": (427, 32, 213)},
    "resnet152": {"layer4": (1451, 32, 725)},
}


def _unfilled(name, **options):
    """A network without weights, in which nothing is computed."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name):
    shape = (3, 224, 224)
    found = map_fields(_unfilled(name), list(PUBLISHED[name]), shape)
    for layer, (size, stride, padding) in PUBLISHED[name].items():
        assert _row(found[layer], shape) == ([size] * 2, [stride] * 2, [padding] * 2, 0), layer


def test_channels_of_a_concatenation_keep_the_field_of_their_branch():
    seen = _seen(_unfilled("googlenet"), "inception5b", (3, 224, 224))
    groups = described(seen, (224, 224))
    assert group_of(groups, 0)["size"] == [315.0, 315.0]
    assert group_of(groups, 384)["size"] == [379.0, 379.0]
    # A pool before the last 1 x 1 convolution sees as much as a 3 x 3 one.
    assert group_of(groups, 1023)["size"] == [379.0, 379.0]
    assert (groups_of_channels(groups, 1024) >= 0).all()


def _araujo(layers):
    """Size, stride and start of a chain, by the recurrences of the paper, from the last layer back (r0, S0, P0)."""
    size, stride, padding = 1, 1, 0
    for kernel, step, pad, dilation in reversed(layers):
        wide = dilation * (kernel - 1) + 1
        size, stride, padding = step * size + wide - step, step * stride, step * padding + pad
    return size, stride, padding


@pytest.mark.parametrize("seed", range(4))
def test_the_recurrences_of_araujo_per_axis(seed):
    rng = np.random.default_rng(seed)
    axes, modules = [[], []], []
    for _ in range(4):
        drawn = [
            (int(rng.integers(1, 5)), int(rng.integers(1, 3)), int(rng.integers(0, 3)), int(rng.integers(1, 3)))
            for _ in range(2)
        ]
        kernel, stride, padding, dilation = zip(*drawn, strict=True)
        modules.append(nn.Conv2d(1, 1, kernel, stride, padding, dilation))
        for axis, one in zip(axes, drawn, strict=True):
            axis.append(one)
    model = nn.Sequential(*modules)
    sizes, strides, paddings, _ = _row(_seen(model, "3", (1, 151, 133)), (1, 151, 133))
    for axis, layers in enumerate(axes):
        assert (sizes[axis], strides[axis], paddings[axis]) == _araujo(layers)


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


def _generous(model):
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


def _reached(model, layer, shape, units):
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


def _ends(mask):
    ends = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        ends.append((hit[0], hit[-1] + 1))
    return tuple(ends)


def _compare(model, layer, shape, units):
    """Gradients reach nothing outside the box; and its ends, where it lies in the image as a whole."""
    groups = described(_seen(model, layer, shape), shape[1:])
    complete = 0
    for unit, (mask, _) in zip(units, _reached(model, layer, shape, units), strict=True):
        group = group_of(groups, unit[0])
        expected = box(group, unit[1:], shape)
        inside = np.zeros(shape[1:], bool)
        inside[tuple(slice(*span) for span in expected)] = True
        assert not (mask & ~inside).any(), (layer, unit, expected)
        if expected == reach(group, unit[1:]) and inside.any():
            complete += 1
            assert _ends(mask) == expected, (layer, unit)
    return complete


def _all_units(model, layer, shape):
    channels, *size = _size_of(model, layer, shape)
    return [(channel, *place) for channel in range(channels) for place in itertools.product(*map(range, size))]


def _size_of(model, layer, shape):
    return next(_reached(model, layer, shape, [(0,) * len(shape)]))[1][1:]


@pytest.mark.parametrize(
    "layer", ["dilated", "ceiled", "depthwise", "grouped", "raised", "near", "lines", "edges", "uneven", "last"]
)
def test_windows_of_every_kind_reach_exactly_their_box(layer):
    shape = (2, 31, 59)
    model = _generous(Kinds())
    units = _all_units(model, layer, shape)
    assert _compare(model, layer, shape, units[:: max(1, len(units) // 90)]) > 3


@pytest.mark.parametrize("layer", ["conv", "pool", "raised", "lines", "last"])
def test_one_axis(layer):
    shape = (2, 61)
    model = _generous(Lines())
    assert _compare(model, layer, shape, _all_units(model, layer, shape)) > 10


@pytest.mark.parametrize("layer", ["added", "joined", "shuffled", "split", "short", "last"])
def test_every_channel_of_branching_paths_has_the_box_of_its_own_path(layer):
    shape = (2, 17, 23)
    model = _generous(Paths())
    assert _compare(model, layer, shape, _all_units(model, layer, shape)[::3]) > 20


def test_a_constant_channel_sees_nothing():
    groups = described(_seen(Paths(), "short", (2, 17, 23)), (17, 23))
    assert group_of(groups, 0)["size"] == [0.0, 0.0]
    assert all(start == stop for start, stop in box(group_of(groups, 5), (3, 3), (2, 17, 23)))


@pytest.mark.parametrize(("side", "beyond"), [(12, 1), (13, 0)])
def test_pixels_at_the_border_that_no_window_holds_are_in_no_box(side, beyond):
    # Windows of 3, every 2: the last pixel of 12 is left over, none of 13.
    model = _generous(nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.Conv1d(2, 2, 5, padding=2)))
    shape, last = (2, side), (side - 3) // 2
    group = described(_seen(model, "1", shape), (side,))[0]
    assert box(group, (last,), shape) == ((2 * last - 4, side - beyond),)
    ((mask, _),) = _reached(model, "1", shape, [(0, last)])
    assert _ends(mask) == box(group, (last,), shape)


def test_a_shuffle_is_told_in_runs():
    groups = described(_seen(Paths(), "shuffled", (2, 17, 23)), (17, 23))
    assert sorted(group["channels"] for group in groups) == [[[0, 3, 2]], [[1, 4, 2]]]
    assert runs([0, 1, 2, 5, 7, 9, 10]) == [[0, 3, 1], [5, 10, 2], [10, 11, 1]]


def test_what_is_pooled_and_spread_makes_a_field_whole_and_moves_nothing():
    shape = (2, 15, 21)
    found = map_fields(Gates().eval(), ["stem", "squeeze", "gated", "after", "normed", "last"], shape)
    rows = {layer: _row(seen, shape) for layer, seen in found.items()}
    assert rows["stem"][3] == 0
    assert [rows[layer][3] for layer in ("squeeze", "gated", "after", "normed", "last")] == [1] * 5
    assert rows["gated"][:3] == rows["stem"][:3]
    assert rows["after"][0] == [5.0, 5.0]
    assert rows["last"][:3] == rows["after"][:3]
    group = described(found["after"], shape[1:])[0]
    assert box(group, (3, 4), shape) == ((0, 15), (0, 21))
    assert box(group, (3, 4), shape, local=True) == ((3, 8), (4, 9))
    _compare(_generous(Gates()), "gated", shape, [(0, 3, 4), (1, 0, 0)])


def test_only_the_axis_that_is_pooled_becomes_whole():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(2, 4, 3), nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.last(x + x.mean(3, keepdim=True))

    seen = _seen(Rows(), "last", (2, 15, 21))
    assert seen.field.whole == (False, True)
    assert columns([seen], (15, 21))["size"].tolist() == [[3.0, 21.0]]


def test_branches_that_disagree_are_told_and_their_box_holds_both():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.both = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 1), nn.Identity()
            self.after = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.after(self.both(self.one(x) + self.two(x)[:, :, :-2, 2:]))

    shape = (2, 9, 11)
    seen = map_fields(Shifted().eval(), ["one", "both", "after"], shape)
    assert seen["one"].field.clash is None
    assert "centres (1.0, 1.0) and (0.0, 2.0)" in seen["both"].field.clash
    assert seen["after"].field.clash == seen["both"].field.clash
    _compare(_generous(Shifted()), "both", shape, [(0, 3, 4), (2, 0, 0)])


def test_branches_that_drift_apart_are_unknown():
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.fast, self.both = nn.Conv2d(1, 2, 1, stride=2), nn.Identity()
            self.slow = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.both(self.fast(x) + self.slow(x)[:, :, :4, :5])

    seen = _seen(Drifting(), "both", (1, 8, 10))
    assert "different strides" in seen.field.unknown
    group = described(seen, (8, 10))[0]
    assert reach(group, (0, 0)) is None
    assert box(group, (0, 0), (1, 8, 10)) == ((0, 8), (0, 10))


FAMILIES = [
    ("alexnet", 128),
    ("vgg11", 64),
    ("resnet18", 96),
    ("resnext50_32x4d", 64),
    ("densenet121", 64),
    ("squeezenet1_1", 96),
    ("googlenet", 96),
    ("inception_v3", 128),
    ("mobilenet_v2", 96),
    ("mobilenet_v3_small", 96),
    ("mnasnet0_5", 96),
    ("shufflenet_v2_x0_5", 96),
    ("efficientnet_b0", 64),
    ("regnet_x_400mf", 64),
    ("regnet_y_400mf", 64),
    ("convnext_tiny", 64),
    ("swin_t", 64),
    ("vision_transformer", 64),
    ("max_vit", 64),
]


def _family(name, side):
    """A member of a family; of the largest ones a small one, made by their own class."""
    models = torchvision.models
    if name == "vision_transformer":
        return models.VisionTransformer(side, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
    if name == "max_vit":
        return models.MaxVit((side, side), 8, 2, [8, 16], [1, 1], 4, 0.0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3", "vgg11") else {}
    if name in ("googlenet", "inception_v3"):
        options["aux_logits"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.get_model(name, weights=None, **options)


@pytest.mark.parametrize(("name", "side"), FAMILIES)
def test_gradients_stay_inside_the_box_in_every_torchvision_family(name, side):
    shape = (3, side, side + (0 if name in ("vision_transformer", "max_vit") else 32))
    model = _family(name, side).eval().requires_grad_(False)
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d)
    names = [at for at, module in model.named_modules() if isinstance(module, kinds)]
    names += ["inception5b", "layer3", "features", "Mixed_6b", "stage3"]
    layers = [at for at in names if at in dict(model.named_modules())]
    found = map_fields(model, layers[:: max(1, len(layers) // 4)], shape)
    kept = {}
    handles = [
        model.get_submodule(at).register_forward_hook(lambda _m, _i, output, at=at: kept.setdefault(at, output))
        for at in found
    ]
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    model(image)
    for handle in handles:
        handle.remove()
    exact = 0
    for layer, seen in found.items():
        groups = described(seen, shape[1:])
        channels, *size = kept[layer].shape[1:]
        for channel, place in ((0, [0] * len(size)), (channels - 1, [n // 2 for n in size])):
            group = group_of(groups, channel)
            (gradient,) = torch.autograd.grad(kept[layer][(0, channel, *place)], image, retain_graph=True)
            inside = np.zeros(shape[1:], bool)
            inside[tuple(slice(*span) for span in box(group, place, shape))] = True
            outside = gradient[0].abs().amax(0).numpy()[~inside]
            assert outside.max(initial=0) <= 1e-9 * float(gradient.abs().max()), (layer, channel, place)
            exact += group["status"] == "exact"
    assert exact


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2"),
        ("mobilenet_v2", "features.6"),
        ("shufflenet_v2_x0_5", "stage2.1"),
        ("densenet121", "features.pool0"),
    ],
)
def test_generous_nets_reach_the_whole_of_their_box(name, layer):
    """A box that is too large would pass the test above."""
    shape = (3, 128, 160)
    model = _generous(torchvision.models.get_model(name, weights=None))
    channels, rows, across = _size_of(model, layer, shape)
    units = [(channel, rows // 2, across // 2 + 1) for channel in sorted({0, 1, channels // 2, channels - 1})]
    assert _compare(model, layer, shape, units) == len(units)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_layer_of_the_tiny_nets_is_known(name):
    from convaudit.stages.network.layers import trace

    model = ALL[name]()
    shape = type(model).input_shape
    layers = [spec.name for spec in trace(model, torch.zeros(2, *shape))]
    found = map_fields(model, layers, shape)
    assert all(seen.field.unknown is None for seen in found.values())
    last = found[layers[-1]]
    assert all(last.field.whole)


def test_decisions_that_depend_on_values_are_unknown_in_clear_words():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.last(x if x.sum() > 0 else -x)

    found = map_fields(Odd().eval(), ["conv", "last"], (1, 9, 9))
    for seen in found.values():
        assert "takes a decision that depends on the values" in seen.field.unknown
        assert columns([seen], (9, 9))["status"].tolist() == [2]
    with pytest.raises(StageError, match="no module of that name"):
        map_fields(Odd().eval(), ["cnov"], (1, 9, 9))


def test_what_turns_space_is_unknown():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Identity()

        def forward(self, x):
            return self.last(self.conv(x).flip(2))

    found = map_fields(Turned().eval(), ["conv", "last"], (1, 9, 9))
    assert found["conv"].field.unknown is None
    assert "operation flip" in found["last"].field.unknown


def test_a_stride_that_is_no_whole_number():
    seen = _seen(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=4)), "1", (1, 6, 7))
    assert [reached.stride for reached in seen.field.reach] == [Fraction(1, 4)] * 2
    group = described(seen, (6, 7))[0]
    assert [box(group, (place, 0), (1, 6, 7))[0] for place in (0, 3, 4, 23)] == [(0, 1), (0, 1), (1, 2), (5, 6)]


class _Causal(nn.Module):
    """A residual block whose convolution sees the past, or the future."""

    def __init__(self, past):
        super().__init__()
        self.past, self.conv, self.sum = past, nn.Conv1d(2, 2, 3, dilation=2), nn.Identity()
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        sides = (4, 0) if self.past else (2, 2)
        other = x if self.past else F.pad(x[..., 1:], (0, 1))
        return self.head(self.sum(other + self.conv(F.pad(x, sides))).mean(-1))


def test_branches_of_a_causal_network_that_end_at_the_same_sample_agree():
    seen = _seen(_Causal(past=True), "sum", (2, 20)).field
    assert seen.clash is None
    assert (seen.reach[0].first_of(7), seen.reach[0].last_of(7)) == (3, 7)
    assert "centres (0.0,) and (1.0,)" in _seen(_Causal(past=False), "sum", (2, 20)).field.clash.replace(
        "(1.0,) and (0.0,)", "(0.0,) and (1.0,)"
    )
