import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional as F

from convaudit.stages.attributions.guided_grad_cam import GuidedGradCam, guided_grad_cam
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened

from ...tiny_models import conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


@pytest.mark.parametrize("reduction", ["max_abs", "sum_abs", "sum"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 3, 7)])
def test_is_the_product(shape, reduction):
    rng = np.random.default_rng(0)
    guided, heatmap = rng.standard_normal(shape), np.abs(rng.standard_normal((shape[0], *shape[2:])))
    got = guided_grad_cam(torch.from_numpy(guided), torch.from_numpy(heatmap), reduction).numpy()
    for i in range(shape[0]):
        for where in np.ndindex(*shape[2:]):
            values = [guided[i, c][where] * heatmap[i][where] for c in range(shape[1])]
            magnitudes = [abs(value) for value in values]
            want = {"max_abs": max(magnitudes), "sum_abs": sum(magnitudes), "sum": sum(values)}[reduction]
            assert got[i][where] == pytest.approx(want, rel=1e-12)


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


def _between(heatmap, length, stride, centre):
    """Value at each input position of one axis, linear between cells; written for one line of cells."""
    out = []
    for pixel in range(length):
        place = min(max((pixel - centre) / stride, 0), len(heatmap) - 1)
        left = min(int(place), len(heatmap) - 2) if len(heatmap) > 1 else 0
        right = min(left + 1, len(heatmap) - 1)
        out.append(heatmap[left] * (1 - (place - left)) + heatmap[right] * (place - left))
    return np.array(out)


def _fine(coarse, space, stride, centre):
    """Axis by axis, image by image."""
    found = []
    for heatmap in coarse:
        for axis in range(len(space)):
            heatmap = np.apply_along_axis(_between, axis, heatmap, space[axis], stride[axis], centre[axis])
        found.append(heatmap)
    return np.array(found)


@pytest.mark.parametrize("target", [0, 3])
def test_is_captums_guided_backprop_times_aligned_grad_cam(target):
    model = conv_net().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    guided = CaptumGuidedBackprop(model).attribute(images.clone().requires_grad_(), target=target).detach()
    coarse = LayerGradCam(model, model.pool).attribute(images, target=target).squeeze(1).detach().relu().numpy()
    # conv1 keeps its grid; windows of 2 move the first cell by half a pixel.
    fine = _fine(coarse, (12, 9), (2, 2), (0.5, 0.5))
    got, (notes, _, _) = _attributed(model, GuidedGradCam(target=target, layer="pool"))
    _close(got[:, 0], (guided.numpy() * fine[:, None]).__abs__().max(1))
    assert notes["alignment"]["geometry"]["pool"] == {"stride": [2, 2], "centre": [0.5, 0.5]}
    assert notes["relu_calls"] == 2
    assert notes["weights"]["pool"].startswith("mean gradients")


@pytest.mark.parametrize("factory", [conv_net, residual_net, signal_net])
def test_behind_global_pooling_all_classes_at_once_are_those_one_by_one(factory):
    model = factory().double()
    every, (notes, _, _) = _attributed(model, GuidedGradCam(target="all"))
    assert "without a backward pass" in next(iter(notes["weights"].values()))
    for target in range(5):
        alone, _ = _attributed(model, GuidedGradCam(target=target))
        np.testing.assert_array_equal(every[:, target], alone[:, 0])
    assert np.abs(every).max() > 0


def test_a_signal():
    model = signal_net().double()
    got, (notes, _, _) = _attributed(model, GuidedGradCam(target=1, reduction="sum"))
    assert got.shape == (4, 1, 24)
    (geometry,) = notes["alignment"]["geometry"].values()
    # Padding 2 for a kernel of 5, windows of 2, a kernel of 3 without padding.
    assert geometry == {"stride": [2], "centre": [2.5]}


def test_scaling_the_logits_scales_the_map_by_its_square():
    model, scaled = conv_net().double(), conv_net().double()
    scaled.fc.weight.mul_(3)
    first, second = (_attributed(net, GuidedGradCam(target=2))[0] for net in (model, scaled))
    _close(second, 9 * first)


class Flipped(nn.Module):
    """Nobody can say where its cells lie."""

    input_shape = (2, 8, 6)

    def __init__(self, relu=True):
        super().__init__()
        self.act = nn.ReLU() if relu else nn.GELU()
        self.conv, self.two, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 2, stride=2), nn.Linear(4, 5)

    def forward(self, x):
        x = self.act(self.conv(x)).flip(2)
        return self.fc(F.softplus(self.two(x)).mean((2, 3)))


def test_without_a_place_for_the_cells_the_map_is_stretched_and_the_notes_say_so():
    torch.manual_seed(0)
    model = Flipped().double().eval().requires_grad_(False)
    got, (notes, _, (finding,)) = _attributed(model, GuidedGradCam(target=1, layer="two"))
    assert "geometry of two" in notes["alignment"]["unaligned"]["two"]
    assert finding.code == "attributions/rule-partial"
    images = torch.from_numpy(tiny_images(model, 4)).double()
    coarse = LayerGradCam(model, model.two).attribute(images, target=1).squeeze(1).detach().relu().numpy()
    guided = CaptumGuidedBackprop(model).attribute(images.clone().requires_grad_(), target=1).detach().numpy()
    _close(got[:, 0], np.abs(guided * _fine(coarse, (8, 6), (2, 2), (0.5, 0.5))[:, None]).max(1))


def test_networks_without_a_relu_and_several_layers_are_refused():
    with pytest.raises(ConfigError, match="GuidedGradCam: the network has no ReLU"):
        GuidedGradCam().asks(tiny_subject(Flipped(relu=False).eval().requires_grad_(False)))
    with pytest.raises(ConfigError, match="expected one layer, got conv1, conv2"):
        GuidedGradCam(layer="kind:conv").asks(tiny_subject(conv_net()))
