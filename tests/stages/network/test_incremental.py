"""Piece by piece the answers are those of the whole network."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from convaudit.stages.network.graph import trace_graph
from convaudit.stages.network.incremental.recompute import Recomputation, whole_windows
from convaudit.stages.network.incremental.regions import Region, spread_change

from ...tiny_models import ALL

NETS = {
    "alexnet": 80,
    "vgg11_bn": 64,
    "resnet18": 96,
    "resnext50_32x4d": 64,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 80,
    "mobilenet_v2": 96,
    "mobilenet_v3_small": 96,
    "shufflenet_v2_x0_5": 96,
    "squeezenet1_1": 80,
    "mnasnet0_5": 96,
    "regnet_y_400mf": 64,
    "efficientnet_b0": 64,
}


def _torchvision(name, size):
    """Random weights, and batch norms that know what comes: fresh ones let a signal die out in deep networks."""
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None, **options)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
            norm.train()
        if norms:
            model.eval()
            for norm in norms:
                norm.train()
            with torch.no_grad():
                model(torch.randn(3, 3, size, size))
    return model.eval().requires_grad_(False)


def _windows(space, size=11):
    """In the corners, at an edge cut off, in the middle, and at odd places."""
    places = [[0, 13, length // 2 - 3, length - size, length - 4] for length in space]
    chosen = [(0, 0), (4, 4), (2, 2), (1, 3), (3, 1), (0, 4)] if len(space) == 2 else [(i,) for i in range(5)]
    start = np.array([[max(0, places[axis][i]) for axis, i in enumerate(pick)] for pick in chosen]).T
    return Region(start, np.minimum(start + size, np.array(space)[:, None]))


def _compare(model, image, window, tolerance, effect=1e-4, baseline=None):
    baseline = torch.zeros_like(image) if baseline is None else baseline
    recomputation = Recomputation(model, window, worth=math.inf)
    got = recomputation.logits(image, baseline)
    assert not isinstance(got, str), got
    with torch.no_grad():
        want, plain = model(whole_windows(image, baseline, window)), model(image)
    size = want.abs().max()
    # Windows that change nothing would prove nothing.
    assert (want - plain).abs().max() > max(effect, 100 * tolerance) * size
    assert (got - want).abs().max() <= tolerance * size
    return recomputation.scheme


@pytest.mark.parametrize("name", list(NETS))
def test_equals_the_whole_network_in_double_precision(name):
    size = NETS[name]
    model = _torchvision(name, size).double()
    image = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scheme = _compare(model, image, _windows((size, size)), 1e-9)
    assert scheme.spread.lost_at is None
    assert scheme.effort.share < 1


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "googlenet", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("last", [False, True])
def test_equals_the_whole_network_in_single_precision(name, last):
    size = NETS[name]
    form = torch.channels_last if last else torch.contiguous_format
    model = _torchvision(name, size).to(memory_format=form)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=form)
    _compare(model, image, _windows((size, size)), 1e-4, effect=1e-3)


def test_a_network_with_an_unknown_operation_is_exact_and_says_so():
    model = torchvision.models.convnext_tiny(weights=None).double().eval().requires_grad_(False)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scheme = _compare(model, image, _windows((64, 64)), 1e-9)
    assert scheme.spread.lost_at == "native_layer_norm"


@pytest.mark.parametrize("name", list(ALL))
def test_tiny_networks(name):
    model = ALL[name]().double()
    space = type(model).input_shape[1:]
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    baseline = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    if len(space) == 1:
        window = Region(np.array([[0, 3, 11, 20]]), np.array([[5, 8, 12, 24]]))
    else:
        window = Region(np.array([[0, 4, 9, 3], [0, 2, 6, 7]]), np.array([[3, 7, 12, 4], [2, 4, 9, 8]]))
    _compare(model, image, window, 1e-12, baseline=baseline)


class Shuffle(nn.Module):
    """Channels in groups, mixed, split, shifted and joined again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, (3, 5), stride=(1, 2), padding=(1, 2), bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(4, 4, 3, padding=3, dilation=3)
        self.act = nn.PReLU(4)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.grouped(F.relu(self.stem(x), inplace=True))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        first, second = x.chunk(2, dim=1)
        second = self.act(self.dilated(F.pad(second, (1, 0, 0, 2)))[:, :, : h + 2, : w + 1])[:, :, :h, :w]
        return self.fc(torch.cat([first, second], 1).mean((2, 3)))


class Pools(nn.Module):
    """Pools of every kind, with borders that count and borders that do not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.pools = nn.ModuleList(
            [
                nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
                nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
                nn.AvgPool2d((2, 3), stride=(2, 1), padding=(1, 1), ceil_mode=True),
                nn.MaxPool2d((1, 2), stride=1, dilation=2),
                nn.AvgPool2d(2, stride=1, divisor_override=3),
                nn.LPPool2d(2, 2, stride=1),
                nn.AdaptiveAvgPool2d((3, 2)),
            ]
        )
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        x = self.conv(x) - 2
        for pool in self.pools:
            x = pool(x)
        return self.fc(x.flatten(1))


class Excited(nn.Module):
    """Squeeze and excitation, a map of constants, a sum of branches with different reach, softmax at the end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.short, self.long = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 5, padding=2)
        self.register_buffer("place", torch.linspace(-1, 1, 31 * 23).view(1, 1, 31, 23))
        self.norm = nn.GroupNorm(2, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.cat([self.conv(x)[:, :5], self.place.expand(len(x), 1, -1, -1)], 1) * self.place.cos()
        x = self.short(x) + self.long(x).sigmoid()
        x = self.squeeze(F.adaptive_avg_pool2d(x, 1)).sigmoid() * x
        x = self.norm(x)
        return self.fc(x.amax((2, 3))).log_softmax(1)


class Lines(nn.Module):
    """One dimension."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 4, stride=3, padding=2, dilation=2)
        self.same = nn.Conv1d(6, 6, 4, padding="same")
        self.norm = nn.BatchNorm1d(6)
        self.pools = nn.Sequential(nn.MaxPool1d(3, 2, ceil_mode=True), nn.AvgPool1d(2, 1, padding=1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool1d(self.pools(self.norm(self.same(self.conv(x)))), 1).squeeze(-1))


class Solids(nn.Module):
    """Three dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1, stride=(1, 2, 1))
        self.pool = nn.MaxPool3d(2, ceil_mode=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.pool(F.silu(self.conv(x))).mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("kind", "shape", "lost"),
    [
        (Shuffle, (2, 31, 46), "slice"),
        (Pools, (2, 31, 23), None),
        (Excited, (2, 31, 23), "native_group_norm"),
        (Lines, (2, 83), None),
        (Solids, (1, 9, 11, 8), None),
    ],
)
def test_operations_of_many_kinds(kind, shape, lost):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind().double().eval().requires_grad_(False)
        image, baseline = torch.randn(2, 1, *shape, dtype=torch.float64)
    rng = np.random.default_rng(0)
    start = np.stack([np.sort(rng.integers(0, n, 7)) for n in shape[1:]])
    end = np.minimum(start + rng.integers(1, 6, start.shape), np.array(shape[1:])[:, None])
    scheme = _compare(model, image, Region(start, end), 1e-12, baseline=baseline)
    assert scheme.spread.lost_at == lost


def test_regions_hold_every_change_and_grow_no_further_than_they_must():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, (3, 2), stride=(2, 1), padding=(2, 0)), nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.LazyLinear(2),
        ).double().eval()  # fmt: skip
        image = torch.randn(1, 1, 27, 22, dtype=torch.float64)
        model(image)
    window = Region(np.array([[0, 9, 20, 26], [0, 6, 17, 21]]), np.array([[2, 12, 27, 27], [3, 7, 22, 22]]))
    graph = trace_graph(model, image)
    regions = spread_change(graph, 2, window, range(len(graph.nodes))).regions
    changed = whole_windows(image, image + 1, window).clone(memory_format=torch.contiguous_format)
    for column in range(4):
        other = trace_graph(model, changed[column : column + 1])
        for node, region, before, after in zip(graph.nodes, regions, graph.values, other.values, strict=True):
            if region is None:
                continue
            moved = ((before - after).abs() > 1e-9)[0].any(0)
            rows, columns = (torch.nonzero(moved.any(1 - axis)).flatten() for axis in (0, 1))
            found = [(places.min().item(), places.max().item() + 1) for places in (rows, columns)]
            assert found == list(zip(region.start[:, column], region.end[:, column], strict=True)), node.name


def test_what_does_not_pay_is_run_anew():
    model = ALL["conv"]().double()
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64)
    window = Region(np.array([[0], [0]]), np.array([[11], [8]]))
    recomputation = Recomputation(model, window, worth=0.0)
    with torch.no_grad():
        want = model(whole_windows(image, torch.zeros_like(image), window))
    assert torch.equal(recomputation.logits(image, torch.zeros_like(image)), want)


def test_a_network_that_cannot_be_followed_gives_the_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            x = self.conv(x)
            return (x if x.sum() > 0 else -x).flatten(1)

    image = torch.ones(1, 1, 6, 6)
    window = Region(np.array([[0], [0]]), np.array([[2], [2]]))
    with torch.no_grad():
        found = Recomputation(Odd(), window).logits(image, torch.zeros_like(image))
    assert "takes a decision that depends on the values" in found


def test_an_answer_that_is_not_the_networks_own_is_refused(monkeypatch):
    model = ALL["conv"]().double()
    image = torch.randn(1, *type(model).input_shape, dtype=torch.float64)
    window = Region(np.array([[0], [0]]), np.array([[11], [8]]))
    recomputation = Recomputation(model, window)
    right = Recomputation._logits
    monkeypatch.setattr(Recomputation, "_logits", lambda *given: right(*given) + 1e-6)
    assert "differed from what the network gives" in recomputation.logits(image, torch.zeros_like(image))
