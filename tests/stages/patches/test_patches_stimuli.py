"""The angle between a first-layer filter and its patches, against slices cut by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.patches.stimuli import cosines, is_plain

CONVS = {
    "padded": nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "circular": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "same": nn.Conv2d(3, 4, (3, 5), padding="same"),
    "signal": nn.Conv1d(2, 5, 5, stride=3, padding=2),
}


def patch_of(conv, image, place):
    """What one filter is laid on, tap by tap."""
    n_space = image.ndim - 1
    pads = [(a, b) for a, b in zip(*[iter(reversed(conv._reversed_padding_repeated_twice))] * 2, strict=True)]
    mode = "wrap" if conv.padding_mode == "circular" else "constant"
    wide = np.pad(image, [(0, 0), *[(b, a) for a, b in pads]], mode)
    per = conv.in_channels // conv.groups
    first = place[0] // (conv.out_channels // conv.groups) * per
    found = np.zeros((per, *conv.kernel_size))
    for tap in np.ndindex(*found.shape):
        at = [place[1 + i] * conv.stride[i] + tap[1 + i] * conv.dilation[i] for i in range(n_space)]
        found[tap] = wide[(first + tap[0], *at)]
    return found


@pytest.mark.parametrize("name", sorted(CONVS))
def test_it_is_the_cosine_of_filter_and_slice(name):
    conv = CONVS[name].double()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, conv.in_channels, *(11, 8)[: len(conv.kernel_size)]))
    fed = torch.from_numpy(images)
    shape = conv(fed).shape[1:]
    places = [tuple(int(rng.integers(n)) for n in shape) for _ in range(20)] + [(0,) * len(shape)]
    rows = [int(rng.integers(2)) for _ in places]
    got = cosines(conv, conv.weight.detach(), fed, rows, places).detach()
    for value, row, place in zip(got.tolist(), rows, places, strict=True):
        one, other = conv.weight[place[0]].detach().numpy().ravel(), patch_of(conv, images[row], place).ravel()
        want = one @ other / np.sqrt((one @ one) * (other @ other))
        assert value == pytest.approx(want, abs=1e-9)


def test_a_patch_that_is_its_filter_has_none_between_them():
    conv = nn.Conv2d(3, 2, (3, 2)).double()
    fed = 4 * conv.weight[1].detach()[None]
    assert cosines(conv, conv.weight.detach(), fed, [0], [(1, 0, 0)]).item() == pytest.approx(1)
    assert cosines(conv, conv.weight.detach(), -fed, [0], [(1, 0, 0)]).item() == pytest.approx(-1)
    assert cosines(conv, conv.weight.detach(), 0 * fed, [0], [(1, 0, 0)]).isnan().all()


def test_classes_made_from_a_convolution_are_not_plain():
    class Standardised(nn.Conv2d):
        pass

    assert is_plain(CONVS["signal"])
    assert not is_plain(Standardised(3, 2, 3))
    assert not is_plain(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 3)))
