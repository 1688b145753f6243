import numpy as np
import pytest
import torch

from convaudit.stages.attributions.grad_cam import GradCam
from convaudit.stages.attributions.layer_cam import LayerCam, layer_cam
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened

from ...tiny_models import conv_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _replica(activation, gradient, relu):
    """Jiang et al. 2021, section III: weights are the positive gradients, each at its own place."""
    image, channel = activation.shape[:2]
    space = activation.shape[2:]
    heatmap = np.zeros((image, *space))
    for i in range(image):
        for where in np.ndindex(*space):
            total = 0.0
            for k in range(channel):
                weight = max(gradient[i, k][where], 0.0)
                total += weight * activation[i, k][where]
            heatmap[i][where] = max(total, 0.0) if relu else total
    return heatmap


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 4, 7), (2, 3, 2, 3, 4)])
def test_agrees_with_the_equations(shape, relu):
    rng = np.random.default_rng(0)
    activation, gradient = rng.standard_normal(shape), rng.standard_normal(shape)
    got = layer_cam(torch.from_numpy(activation), torch.from_numpy(gradient), relu)
    np.testing.assert_allclose(got.numpy(), _replica(activation, gradient, relu), rtol=1e-12, atol=1e-14)


def _rows(model, method, name):
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        return method.attribute(batch, subject)[f"{name}/heatmap"]


def _by_autograd(model, layer, target):
    """Output and gradient of a module, from one plain forward and backward pass."""
    kept = []

    def keep(_module, _inputs, output):
        kept.append(output)
        return output.clone()

    module = model.get_submodule(layer)
    handle = module.register_forward_hook(keep)
    images = torch.from_numpy(tiny_images(model, 4)).double().requires_grad_()
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept[0])
    return kept[0].detach().numpy(), gradient.numpy()


@pytest.mark.parametrize(
    ("factory", "layer"), [(conv_net, "bn1"), (conv_net, "pool"), (residual_net, "block1"), (signal_net, "conv1")]
)
def test_on_a_network_it_is_the_replica_of_a_plain_backward_pass(factory, layer):
    model = factory().double()
    for relu in (True, False):
        rows = _rows(model, LayerCam(layers=(layer,), target="all", relu=relu), layer)
        assert rows.shape[:2] == (4, 5)
        for target in range(5):
            want = _replica(*_by_autograd(model, layer, target), relu)
            np.testing.assert_allclose(rows[:, target], want, rtol=1e-5, atol=1e-9)


def test_where_gradients_are_positive_and_even_it_is_grad_cam():
    model = conv_net().double()
    model.fc.weight.abs_()
    first = _rows(model, LayerCam(layers=("relu2",), target=1), "relu2")
    second = _rows(model, GradCam(layers=("relu2",), target=1), "relu2")
    assert first.max() > 0
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_scaling_the_logits_scales_the_map(factor):
    model, scaled = conv_net().double(), conv_net().double()
    scaled.fc.weight.mul_(factor)
    first, second = (_rows(net, LayerCam(layers=("pool",), target=2), "pool") for net in (model, scaled))
    assert first.max() > 0
    np.testing.assert_allclose(second, factor * first, rtol=1e-6)


def test_signed_only_without_relu():
    assert not LayerCam().signed
    assert LayerCam(relu=False).signed
    with pytest.raises(ConfigError, match="at least one"):
        LayerCam(layers=())
