"""Receptive fields against published numbers and the recurrences of a paper, and how they are told."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from convaudit.stages.network.fields import map_fields
from convaudit.stages.receptive_fields.boxes import box, group_of, groups_of_channels
from convaudit.stages.receptive_fields.description import described, runs

from ...tiny_models import ALL
from .field_checks import Paths, field_of, row_of

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


def unfilled(name, **options):
    """A network without weights, in which nothing is computed."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name):
    shape = (3, 224, 224)
    found = map_fields(unfilled(name), list(PUBLISHED[name]), shape)
    for layer, (size, stride, padding) in PUBLISHED[name].items():
        assert row_of(found[layer], shape) == ([size] * 2, [stride] * 2, [padding] * 2, 0), layer


def test_channels_of_a_concatenation_keep_the_field_of_their_branch():
    seen = field_of(unfilled("googlenet"), "inception5b", (3, 224, 224))
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
    sizes, strides, paddings, _ = row_of(field_of(model, "3", (1, 151, 133)), (1, 151, 133))
    for axis, layers in enumerate(axes):
        assert (sizes[axis], strides[axis], paddings[axis]) == _araujo(layers)


def test_a_shuffle_is_told_in_runs():
    groups = described(field_of(Paths(), "shuffled", (2, 17, 23)), (17, 23))
    assert sorted(group["channels"] for group in groups) == [[[0, 3, 2]], [[1, 4, 2]]]
    assert runs([0, 1, 2, 5, 7, 9, 10]) == [[0, 3, 1], [5, 10, 2], [10, 11, 1]]


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


def test_a_stride_that_is_no_whole_number():
    seen = field_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=4)), "1", (1, 6, 7))
    assert [reached.stride for reached in seen.field.reach] == [Fraction(1, 4)] * 2
    group = described(seen, (6, 7))[0]
    assert [box(group, (place, 0), (1, 6, 7))[0] for place in (0, 3, 4, 23)] == [(0, 1), (0, 1), (1, 2), (5, 6)]
