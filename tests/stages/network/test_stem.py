"""The dense derivative of a strided convolution, against the one written out and against autograd's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from convaudit.stages.contract import Ask, Gradient
from convaudit.stages.network import stem
from convaudit.stages.network.batch import opened
from convaudit.stages.network.stem import DenseStems, derivative_by_input

from ...tiny_models import tiny_blocks, tiny_subject

GEOMETRIES = [
    # kernel, stride, padding, space
    ((7, 7), (2, 2), (3, 3), (17, 12)),
    ((3, 3), (2, 2), (1, 1), (8, 9)),
    ((3, 3), (2, 2), (0, 0), (10, 7)),
    ((11, 11), (4, 4), (2, 2), (23, 19)),
    ((4, 4), (4, 4), (0, 0), (9, 14)),
    ((2, 5), (3, 1), (1, 2), (8, 6)),
    ((1, 1), (2, 2), (0, 0), (7, 6)),
    ((3, 2), (4, 3), (2, 1), (9, 11)),
]


def _replica(gradient, weight, stride, padding, space):
    """Each product of the convolution, taken back to where it came from."""
    image, out = gradient.shape[:2]
    channel, height, width = weight.shape[1:]
    found = np.zeros((image, channel, *space))
    for v, u in np.ndindex(*gradient.shape[2:]):
        for i, j in np.ndindex(height, width):
            y, x = v * stride[0] + i - padding[0], u * stride[1] + j - padding[1]
            if 0 <= y < space[0] and 0 <= x < space[1]:
                for c in range(channel):
                    found[:, c, y, x] += sum(gradient[:, o, v, u] * weight[o, c, i, j] for o in range(out))
    return found


@pytest.mark.parametrize(("kernel", "stride", "padding", "space"), GEOMETRIES)
def test_it_is_the_derivative_written_out(kernel, stride, padding, space):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 1, *kernel))
    size = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(space, padding, kernel, stride, strict=True)]
    gradient = rng.standard_normal((2, 5, *size))
    got = derivative_by_input(torch.from_numpy(gradient), torch.from_numpy(weight), stride, padding, space)
    assert got.shape == (2, 1, *space)
    np.testing.assert_allclose(got, _replica(gradient, weight, stride, padding, space), atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding", "space"), GEOMETRIES)
def test_it_agrees_with_autograd(kernel, stride, padding, space, layout):
    image = torch.randn(3, 2, *space, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(8, 2, *kernel, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    found = []
    for mode in (DenseStems(), torch.enable_grad()):
        with mode:
            output = F.conv2d(image, weight, bias, stride, padding)
        found.append((output, *torch.autograd.grad(output.sin().sum(), image)))
    assert found[0][0].equal(found[1][0])
    assert "_Stem" in type(found[0][0].grad_fn).__name__
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=1e-12)
    assert found[0][1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 1}, {"groups": 2, "channels": 2}, {"dilation": 2}, {"padding": "valid"}, {"trained": True},
        {"channels": 6}, {"frozen": True},
    ],
)  # fmt: skip
def test_everything_else_is_left_alone(other):
    settings = {"stride": 2, "padding": 1, "channels": 2, "groups": 1, "dilation": 1, **other}
    channels, groups = settings.pop("channels"), settings["groups"]
    trained, frozen = settings.pop("trained", False), settings.pop("frozen", False)
    image = torch.randn(2, channels, 9, 8, requires_grad=not frozen)
    weight = torch.randn(8, channels // groups, 3, 3, requires_grad=trained)
    with DenseStems():
        output = F.conv2d(image, weight, **settings)
    assert "_Stem" not in type(output.grad_fn).__name__


class Strided(torch.nn.Module):
    input_shape = (3, 15, 18)

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.fc = torch.nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.stem(x).relu().mean((2, 3)))


def test_a_gradient_by_the_input_goes_through_it(monkeypatch):
    used = []
    whole = stem.derivative_by_input
    monkeypatch.setattr(stem, "derivative_by_input", lambda *given: used.append(1) or whole(*given))
    torch.manual_seed(0)
    model = Strided().double().eval().requires_grad_(False)
    images = torch.randn(4, 3, 15, 18, dtype=torch.float64)
    (block,) = tiny_blocks(images.numpy().astype(np.float32), batch=4)
    with opened(model, block, tiny_subject(model, 4), Ask(gradients=(Gradient(1, "input"),))) as batch:
        got, fed = batch.gradient(1, "input"), batch.images.clone().requires_grad_()
    assert used == [1]
    (want,) = torch.autograd.grad(model(fed)[:, 1].sum(), fed)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_under_autocast_it_is_a_derivative_of_shorter_numbers():
    image = torch.randn(2, 2, 12, 9).requires_grad_()
    weight, bias = torch.randn(8, 2, 3, 3), torch.randn(8)
    found = []
    for mode in (DenseStems(), torch.enable_grad()):
        with mode, torch.autocast("cpu", torch.bfloat16):
            output = F.conv2d(image, weight, bias, 2, 1)
        assert output.dtype == torch.bfloat16
        found += torch.autograd.grad(output.float().square().sum(), image)
    assert found[0].dtype == torch.float32
    # Sums round differently, by one of the last of eight bits.
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=float(found[1].abs().max()) / 64)
