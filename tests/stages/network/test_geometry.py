import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from convaudit.stages.errors import StageError
from convaudit.stages.network.fields import map_fields
from convaudit.stages.network.geometry import geometry_of

from ...tiny_models import conv_net, residual_net, signal_net


def map_geometry(model, layers, shape):
    return {layer: geometry_of(layer, seen) for layer, seen in map_fields(model, layers, shape).items()}


class Branches(nn.Module):
    """Two paths that agree, of different receptive fields, joined along channels; then squeeze and excitation."""

    def __init__(self, shift=0):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, (5, 3), stride=(2, 1), padding=(1, 0), bias=False)
        self.small = nn.Conv2d(2, 2, 1, stride=2, bias=False)
        self.large = nn.Conv2d(2, 2, 3, stride=2, padding=2 - shift, dilation=2, bias=False)
        self.joined = nn.Identity()
        self.squeeze = nn.Conv2d(4, 4, 1, bias=False)
        self.excited = nn.Identity()
        self.pool = nn.MaxPool2d((2, 3), stride=1, padding=(1, 0))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        small, large = self.small(x), self.large(x)
        rows, columns = min(small.shape[2], large.shape[2]), min(small.shape[3], large.shape[3])
        x = self.joined(torch.cat([small[:, :, :rows, :columns], large], 1)) if small.shape == large.shape else large
        x = self.excited(x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid())
        return self.fc(self.pool(x).mean((2, 3)))


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 4, stride=3, padding=2, dilation=2, bias=False)
        self.pool = nn.AvgPool1d(3, stride=2)
        self.most = nn.MaxPool1d(3, stride=1, padding=1)
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.most(self.pool(self.conv(x))).mean(2))


def _positive(model):
    """A network in which an impulse reaches exactly the cells whose receptive field it lies in."""
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return model.double().eval()


def _middles(model, layer, shape):
    """Middle of the pixels that reach each cell, per axis, found by lighting one pixel after another."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    found = []
    for axis in range(len(shape) - 1):
        seen.clear()
        for pixel in range(shape[1 + axis]):
            image = torch.zeros(1, *shape, dtype=torch.float64)
            image.movedim(1 + axis + 1, 0)[pixel] = 1
            model(image)
        lit = torch.stack([value[0].movedim(1 + axis, 0).flatten(1).amax(1) > 0 for value in seen], 1)
        found.append([(hits.nonzero().min().item() + hits.nonzero().max().item()) / 2 for hits in lit])
    handle.remove()
    return found


def _check(model, layer, shape, inner):
    geometry = map_geometry(model, [layer], shape)[layer]
    for axis, middles in enumerate(_middles(model, layer, shape)):
        for cell in range(*inner):
            assert middles[cell] == geometry.centre[axis] + cell * geometry.stride[axis]


@pytest.mark.parametrize("layer", ["stem", "large", "joined"])
def test_cells_lie_where_an_impulse_reaches_them_from_both_sides(layer):
    # Cells at the border see less than their receptive field, so that only inner ones show its middle.
    _check(_positive(Branches()), layer, (1, 43, 37), (2, 8))


@pytest.mark.parametrize("layer", ["conv", "pool", "most"])
def test_one_dimension(layer):
    _check(_positive(Signal()), layer, (1, 83), (3, 8))


def test_what_is_spread_over_the_map_after_pooling_moves_nothing():
    model = Branches()
    found = map_geometry(model, ["joined", "excited", "pool"], (1, 43, 37))
    assert found["excited"] == found["joined"]
    assert found["pool"].stride == found["joined"].stride
    assert found["pool"].centre == (found["joined"].centre[0] - 2, found["joined"].centre[1] + 2)


@pytest.mark.parametrize(
    ("name", "layer", "size", "naive"),
    [
        ("resnet18", "layer4", 224, -15.5),
        ("alexnet", "features.12", 224, 15.5),
        ("vgg11", "features.20", 224, 0),
        ("googlenet", "inception5b", 224, 6.5),
        ("inception_v3", "Mixed_7c", 299, 21.5),
    ],
)
def test_known_distances_from_the_naive_centre(name, layer, size, naive):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    found = map_geometry(model, [layer], (3, size, size))[layer]
    shift = found.centre[0] - (found.stride[0] - 1) / 2
    # AlexNet's and VGG's last pools halve the map once more than the layers here do.
    assert found.centre[0] == found.centre[1]
    assert abs(shift - naive) <= (8 if name in ("alexnet", "vgg11") else 0)


@pytest.mark.parametrize("factory", [conv_net, residual_net, signal_net])
def test_every_convolution_of_the_tiny_nets_has_a_place(factory):
    model = factory()
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv1d, nn.Conv2d))]
    found = map_geometry(model, layers, type(model).input_shape)
    assert all(value > 0 for geometry in found.values() for value in geometry.stride)


def test_branches_that_disagree_are_refused():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 1)
            self.both = nn.Identity()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.both(self.one(x) + self.two(x)[:, :, 2:, 2:]).mean((2, 3)))

    class Padded(Shifted):
        def forward(self, x):
            return self.fc(self.both(self.one(x) + self.two(F.pad(x, (-2, 0, -2, 0)))).mean((2, 3)))

    with pytest.raises(StageError, match=r"both: branches that meet at the operation add disagree: .*1.0.*2.0"):
        map_geometry(Padded(), ["both"], (1, 9, 9))
    # Cut by two at the start, where the convolution moves by one.
    with pytest.raises(StageError, match=r"both: branches that meet at the operation add disagree: .*1.0.*2.0"):
        map_geometry(Shifted(), ["both"], (1, 9, 9))


class Sliced(nn.Module):
    """A shortcut without weights: every second cell, and channels of zeros (He et al. 2016, option A)."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=1, bias=False)
        self.both = nn.Identity()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        short = F.pad(x[:, :, self.start :: 2, self.start :: 2], (0, 0, 0, 0, 1, 1))
        return self.fc(self.both(self.conv(x) + short).mean((2, 3)))


def test_strided_slices_are_strides():
    _check(_positive(Sliced(0)), "both", (1, 15, 21), (1, 6))
    assert map_geometry(Sliced(0), ["both"], (1, 15, 21))["both"].stride == (2.0, 2.0)
    with pytest.raises(StageError, match=r"centres \(0.0, 0.0\) and \(1.0, 1.0\)"):
        map_geometry(Sliced(1), ["both"], (1, 16, 22))


def test_space_that_is_turned_is_not_followed():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last, self.fc = nn.Conv2d(1, 2, 3), nn.Identity(), nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.last(self.conv(x).flip(2)).mean((2, 3)))

    with pytest.raises(StageError, match="space is lost, or handled in an unknown way"):
        map_geometry(Turned(), ["last"], (1, 9, 9))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: x * (x.sum() > 0).item(), "takes a decision that depends on the values"),
        (lambda x: x + torch.rand(1), "draws random numbers"),
        (lambda x: torch.from_numpy(x.numpy().copy()), "not computed from the input"),
    ],
)
def test_networks_that_cannot_be_followed_say_why(forward, reason):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.last = nn.Identity()

        def forward(self, x):
            return self.last(forward(self.conv(x))).flatten(1)

    with pytest.raises(StageError, match=reason):
        map_geometry(Odd().requires_grad_(False), ["last"], (1, 9, 9))


def test_a_layer_without_space_is_refused():
    with pytest.raises(StageError, match="geometry of fc"):
        map_geometry(conv_net(), ["fc"], type(conv_net()).input_shape)
    with pytest.raises(StageError, match="no module of that name"):
        map_geometry(conv_net(), ["conv9"], type(conv_net()).input_shape)
