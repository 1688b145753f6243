"""What `trace` lists, and what it refuses."""

import pytest
import tiny_models as tiny
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from convaudit.stages.errors import ModelError
from convaudit.stages.network.layers import examine, trace


def names(model, kind=None, n=2):
    images = torch.from_numpy(tiny.tiny_images(model, n))
    return [layer.name for layer in trace(model, images) if kind in (None, layer.kind)]


def test_conv_net_in_forward_order():
    expected = ["conv1", "bn1", "relu1", "pool", "conv2", "bn2", "relu2", "gap", "fc.input", "fc"]
    assert names(tiny.conv_net()) == expected


def test_functional_relus_and_reused_modules():
    first = [
        "stem.conv",
        "stem.functional_relu",
        "stem",
        "conv2",
        "relu#0",
        "conv3",
        "relu#1",
        "conv4",
        "functional_relu#0",
    ]
    last = ["fc1", "functional_relu#1", "fc2.input", "fc2"]
    assert names(tiny.functional_net()) == first + last


def test_saturating_relus_know_their_bound():
    model = tiny.residual_net()
    layers = {layer.name: layer for layer in trace(model, torch.zeros(2, *tiny.SHAPE_2D))}
    assert layers["functional_relu"].upper == 6.0
    assert layers["functional_relu"].module == "relu6"
    assert layers["block1.relu#1"].upper == 6.0
    assert layers["block1.relu#1"].shape == (6, 10, 7)
    assert layers["block1"].kind == "other"
    assert layers["fc.input"].kind == "input"


def test_signal_shapes():
    layers = {layer.name: layer for layer in trace(tiny.signal_net(), torch.zeros(2, *tiny.SHAPE_1D))}
    assert layers["conv1"].shape == (6, 24)
    assert layers["functional_relu#1"].shape == (8, 10)
    assert layers["fc"].shape == (5,)


@pytest.mark.parametrize(
    ("call", "function", "upper"),
    [
        (lambda x: F.relu(x), "relu", None),
        (lambda x: F.relu(x, inplace=True), "relu", None),
        (lambda x: F.relu_(x), "relu", None),
        (lambda x: torch.relu(x), "relu", None),
        (lambda x: torch.relu_(x), "relu", None),
        (lambda x: x.relu(), "relu", None),
        (lambda x: x.relu_(), "relu", None),
        (lambda x: x.clamp(min=0), "clamp", None),
        (lambda x: x.clamp_(0), "clamp", None),
        (lambda x: x.clip(0, 4), "clamp", 4.0),
        (lambda x: torch.clamp(x, 0.0, max=6), "clamp", 6.0),
        (lambda x: torch.clamp_min(x, 0), "clamp", None),
        (lambda x: x.clamp_min_(0), "clamp", None),
        (lambda x: F.relu6(x), "relu6", 6.0),
        (lambda x: F.hardtanh(x, 0, 6), "hardtanh", 6.0),
        (lambda x: F.hardtanh(x, 0.0, 6.0, inplace=True), "hardtanh", 6.0),
        (lambda x: F.threshold(x, 0, 0), "threshold", None),
        (lambda x: F.threshold(x, 0.0, 0.0, inplace=True), "threshold", None),
        (lambda x: torch.maximum(x, torch.zeros(())), "maximum", None),
        (lambda x: torch.max(torch.zeros(1), x), "maximum", None),
        (lambda x: torch.maximum(x, 0 * x), None, None),
        (lambda x: F.threshold(x, 0, 1), None, None),
        (lambda x: F.hardtanh(x), None, None),
        (lambda x: x.clamp(min=-1), None, None),
        (lambda x: x.clamp(max=1), None, None),
        (lambda x: F.leaky_relu(x), None, None),
    ],
)
def test_each_spelling(call, function, upper):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return call(self.conv(x)).mean((2, 3))

    found = [layer for layer in trace(Net().eval(), torch.randn(2, *tiny.SHAPE_2D)) if layer.kind == "relu"]
    expected = [] if function is None else [("functional_relu", function, upper, (4, 10, 7))]
    assert [(layer.name, layer.module, layer.upper, layer.shape) for layer in found] == expected


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 6), nn.Threshold(0, 0)]
)
def test_relu_modules_are_listed_once(module):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), module, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    relus = [layer.name for layer in trace(model, torch.randn(2, *tiny.SHAPE_2D)) if layer.kind == "relu"]
    assert relus == ["1"]


def test_a_threshold_elsewhere_is_no_relu():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Threshold(0.1, 0), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert [layer.kind for layer in trace(model, torch.randn(2, *tiny.SHAPE_2D))][1] == "other"


def test_reused_linear_and_parametrised_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = parametrizations.weight_norm(nn.Conv2d(3, 5, 3))
            self.fc = nn.Linear(5, 5)

        def forward(self, x):
            return self.fc(self.fc(self.conv(x).mean((2, 3))))

    layers = trace(Net().eval(), torch.randn(2, *tiny.SHAPE_2D))
    assert [(layer.name, layer.module) for layer in layers] == [
        ("conv", "Conv2d"),
        ("fc#0", "Linear"),
        ("fc#1.input", "Linear"),
        ("fc#1", "Linear"),
    ]


def test_number_of_logits_and_one_image():
    model = tiny.functional_net()
    anatomy = examine(model, torch.zeros(1, *tiny.SHAPE_2D))
    assert anatomy.n_logit == tiny.N_CLASS
    assert anatomy.layers == trace(model, torch.randn(3, *tiny.SHAPE_2D))


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.conv, self.what = nn.Conv2d(3, 4, 3), what

    def forward(self, x):
        return self.what(self.conv(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval()), "TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3))).eval(), "module '0'.*TorchScript"),
        (lambda: torch.compile(nn.Conv2d(3, 4, 3).eval()), "compiled"),
        (lambda: Returns(lambda x: {"out": x}).eval(), r"expected a tensor \(image, class\), got dict"),
        (lambda: Returns(lambda x: x).eval(), r"got \(2, 4, 10, 7\)"),
        (lambda: Returns(lambda x: x.mean((0, 2, 3))[None]).eval(), r"got \(1, 4\)"),
        (lambda: Returns(lambda x: x.mean((2, 3)).argmax(1, keepdim=True)).eval(), "int64"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 9, 4)).eval(), "no convolution"),
        (lambda: Returns(lambda x: x.mean((2, 3))), "training mode"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_refuses_by_name(model, message):
    with pytest.raises(ModelError, match=message):
        trace(model(), torch.randn(2, *tiny.SHAPE_2D))


@pytest.mark.parametrize(
    ("name", "relus", "contains"),
    [
        ("resnet18", 17, ["layer4.1.relu#1", "fc.input", "layer4"]),
        ("googlenet", 57, ["inception5b.branch4.1.functional_relu", "fc.input"]),
        ("mobilenet_v2", 35, ["features.18.2", "classifier.1.input"]),
    ],
)
def test_torchvision(name, relus, contains):
    import torchvision

    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    layers = trace(torchvision.models.get_model(name, weights=None, **options).eval(), torch.randn(2, 3, 64, 48))
    assert sum(layer.kind == "relu" for layer in layers) == relus
    assert {layer.name for layer in layers} >= set(contains)
