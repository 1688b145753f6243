"""Receptive fields against what gradients reach: windows of every kind, and every family of torchvision."""

import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from convaudit.stages.network.fields import map_fields
from convaudit.stages.receptive_fields.boxes import box, group_of
from convaudit.stages.receptive_fields.description import described

from .field_checks import Kinds, Lines, Paths, all_units, compare, ends_of, field_of, generous, reached_pixels, size_of


@pytest.mark.parametrize(
    "layer", ["dilated", "ceiled", "depthwise", "grouped", "raised", "near", "lines", "edges", "uneven", "last"]
)
def test_windows_of_every_kind_reach_exactly_their_box(layer):
    shape = (2, 31, 59)
    model = generous(Kinds())
    units = all_units(model, layer, shape)
    assert compare(model, layer, shape, units[:: max(1, len(units) // 90)]) > 3


@pytest.mark.parametrize("layer", ["conv", "pool", "raised", "lines", "last"])
def test_one_axis(layer):
    shape = (2, 61)
    model = generous(Lines())
    assert compare(model, layer, shape, all_units(model, layer, shape)) > 10


@pytest.mark.parametrize("layer", ["added", "joined", "shuffled", "split", "short", "last"])
def test_every_channel_of_branching_paths_has_the_box_of_its_own_path(layer):
    shape = (2, 17, 23)
    model = generous(Paths())
    assert compare(model, layer, shape, all_units(model, layer, shape)[::3]) > 20


def test_a_constant_channel_sees_nothing():
    groups = described(field_of(Paths(), "short", (2, 17, 23)), (17, 23))
    assert group_of(groups, 0)["size"] == [0.0, 0.0]
    assert all(start == stop for start, stop in box(group_of(groups, 5), (3, 3), (2, 17, 23)))


@pytest.mark.parametrize(("side", "beyond"), [(12, 1), (13, 0)])
def test_pixels_at_the_border_that_no_window_holds_are_in_no_box(side, beyond):
    # Windows of 3, every 2: the last pixel of 12 is left over, none of 13.
    model = generous(nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.Conv1d(2, 2, 5, padding=2)))
    shape, last = (2, side), (side - 3) // 2
    group = described(field_of(model, "1", shape), (side,))[0]
    assert box(group, (last,), shape) == ((2 * last - 4, side - beyond),)
    ((mask, _),) = reached_pixels(model, "1", shape, [(0, last)])
    assert ends_of(mask) == box(group, (last,), shape)


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
    model = generous(torchvision.models.get_model(name, weights=None))
    channels, rows, across = size_of(model, layer, shape)
    units = [(channel, rows // 2, across // 2 + 1) for channel in sorted({0, 1, channels // 2, channels - 1})]
    assert compare(model, layer, shape, units) == len(units)
