import numpy as np
import pytest
import torch
from captum.attr import Saliency as CaptumSaliency
from torch import nn

from convaudit.stages.attributions.method import scaled
from convaudit.stages.attributions.saliency import Saliency, reduced
from convaudit.stages.network.batch import opened

from ...tiny_models import ALL, conv_net, tiny_blocks, tiny_images, tiny_subject


def _replica(gradient, reduction):
    image, channel = gradient.shape[:2]
    out = np.zeros((image, *gradient.shape[2:]))
    for i in range(image):
        for where in np.ndindex(*gradient.shape[2:]):
            values = [gradient[i, c][where] for c in range(channel)]
            magnitudes = [abs(value) for value in values]
            out[i][where] = {"max_abs": max(magnitudes), "sum_abs": sum(magnitudes), "sum": sum(values)}[reduction]
    return out


@pytest.mark.parametrize("reduction", ["max_abs", "sum_abs", "sum"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 3, 7)])
def test_reductions(shape, reduction):
    gradient = np.random.default_rng(0).standard_normal(shape)
    got = reduced(torch.from_numpy(gradient), reduction).numpy()
    np.testing.assert_allclose(got, _replica(gradient, reduction), rtol=1e-12)
    assert Saliency(reduction=reduction).signed == bool((got < 0).any())


def test_scaled_maps_come_back_even_when_they_are_tiny():
    maps = np.random.default_rng(0).standard_normal((4, 2, 5, 3)).astype(np.float32)
    maps[1] *= 1e-20
    maps[2, 1] = 0
    maps[3, 0, 0, 0] = np.nan
    shape, scale = scaled(maps)
    assert (shape.dtype, scale.dtype) == (np.float16, np.float32)
    assert np.abs(shape[:2].astype(float)).max(axis=(2, 3)).tolist() == [[1, 1], [1, 1]]
    back = shape.astype(np.float64) * scale[..., None, None]
    for i in np.ndindex(4, 2):
        if i != (3, 0):
            np.testing.assert_allclose(back[i], maps[i], atol=1e-3 * np.abs(maps[i]).max())
    assert scale[2, 1] == 0
    assert np.isnan(scale[3, 0])
    assert np.isnan(shape[3, 0]).all()
    assert np.isfinite(shape[3, 1]).all()


def _attributed(model, method, n=4):
    subject = tiny_subject(model, n)
    (block,) = tiny_blocks(tiny_images(model, n), batch=n)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rows = method.attribute(batch, subject)
    heatmap, scale = rows["heatmap"][:, 0].astype(np.float64), rows["scale"][:, 0]
    return heatmap * scale.reshape(-1, *[1] * (heatmap.ndim - 1))


class Linear(nn.Module):
    """Logits are linear in the input, through a convolution as wide as the image."""

    input_shape = (3, 4, 5)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (4, 5))

    def forward(self, x):
        return self.conv(x).flatten(1)


def test_of_a_linear_network_it_is_the_weight():
    model = Linear().double().eval().requires_grad_(False)
    got = _attributed(model, Saliency(target=1, reduction="sum"))
    want = model.conv.weight[1].sum(0).numpy()
    for heatmap in got:
        np.testing.assert_allclose(heatmap, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("name", sorted(ALL))
def test_agrees_with_captum(name):
    model = ALL[name]().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    target = model(images).argmax(1)
    want = CaptumSaliency(model).attribute(images.clone().requires_grad_(), target=target, abs=True).amax(1).detach()
    got = _attributed(model, Saliency())
    np.testing.assert_allclose(got, want.numpy(), atol=1e-3 * float(want.max()))


def test_scaling_the_logits_leaves_the_shape():
    model, larger = conv_net(), conv_net()
    larger.fc.weight.mul_(4)
    larger.fc.bias.mul_(4)
    np.testing.assert_allclose(_attributed(larger, Saliency()), 4 * _attributed(model, Saliency()), rtol=1e-5)
