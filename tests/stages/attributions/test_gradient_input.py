import numpy as np
import pytest
import torch
from captum.attr import InputXGradient
from torch import nn

from convaudit.stages.attributions.gradient_input import GradientInput, gradient_times_input
from convaudit.stages.network.batch import opened

from ...tiny_models import ALL, tiny_blocks, tiny_images, tiny_subject


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 3, 7)])
def test_it_equals_the_sum_written_out(shape):
    generator = np.random.default_rng(0)
    gradient, images = generator.standard_normal(shape), generator.standard_normal(shape)
    expected = np.zeros((shape[0], *shape[2:]))
    for i in range(shape[0]):
        for where in np.ndindex(*shape[2:]):
            expected[i][where] = sum(gradient[i, c][where] * images[i, c][where] for c in range(shape[1]))
    got = gradient_times_input(torch.from_numpy(gradient), torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-12)


class Linear(nn.Module):
    input_shape = (3, 4, 5)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (4, 5))

    def forward(self, x):
        return self.conv(x).flatten(1)


def _maps(model, method, n=4):
    subject = tiny_subject(model, n)
    (block,) = tiny_blocks(tiny_images(model, n), batch=n)
    with opened(model, block, subject, method.asks(subject)) as batch:
        targets = method.targets(subject)
        return np.stack([method.maps(batch, subject, t)["heatmap"].numpy() for t in targets], 1), batch.logits.numpy()


def test_a_linear_network_is_explained_completely():
    model = Linear().double().eval().requires_grad_(False)
    maps, logits = _maps(model, GradientInput(target="all"))
    np.testing.assert_allclose(maps.sum((2, 3)), logits - model.conv.bias.numpy(), rtol=1e-10)


@pytest.mark.parametrize("name", sorted(ALL))
def test_agrees_with_captum(name):
    model = ALL[name]().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    target = model(images).argmax(1)
    want = InputXGradient(model).attribute(images.clone().requires_grad_(), target=target).sum(1).detach().numpy()
    (got, _) = _maps(model, GradientInput())
    np.testing.assert_allclose(got[:, 0], want, atol=1e-12 * np.abs(want).max())


def test_channels_can_come_in_any_order():
    gradient, images = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    order = [2, 0, 1]
    torch.testing.assert_close(
        gradient_times_input(gradient[:, order], images[:, order]), gradient_times_input(gradient, images)
    )
