import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from convaudit.stages.attributions.grad_cam import GradCam, grad_cam
from convaudit.stages.contract import Ask
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.batch import opened
from convaudit.stages.selectors import select_layers

from ...tiny_models import conv_net, functional_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _replica(activation, gradient, relu):
    """Equations 1 and 2 of Selvaraju et al. 2017, one number at a time."""
    image, channel = activation.shape[:2]
    space = activation.shape[2:]
    heatmap = np.zeros((image, *space))
    for i in range(image):
        for where in np.ndindex(*space):
            total = 0.0
            for k in range(channel):
                alpha = sum(gradient[i, k][at] for at in np.ndindex(*space)) / np.prod(space)
                total += alpha * activation[i, k][where]
            heatmap[i][where] = max(total, 0.0) if relu else total
    return heatmap


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 4, 7), (2, 3, 2, 3, 4)])
def test_agrees_with_the_equations(shape, relu):
    rng = np.random.default_rng(0)
    activation, gradient = rng.standard_normal(shape), rng.standard_normal(shape)
    got = grad_cam(torch.from_numpy(activation), torch.from_numpy(gradient), relu)
    np.testing.assert_allclose(got.numpy(), _replica(activation, gradient, relu), rtol=1e-12, atol=1e-14)


def test_on_a_pooled_linear_network_it_is_the_class_activation_map():
    activation = torch.rand(2, 4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient = (weight / 15).view(1, 4, 1, 1).expand_as(activation)
    want = torch.einsum("k,bkyx->byx", weight, activation) / 15
    torch.testing.assert_close(grad_cam(activation, gradient, relu=False), want)


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_scaling_the_logits_scales_the_map(factor):
    model, scaled = conv_net().double(), conv_net().double()
    scaled.fc.weight.mul_(factor)
    scaled.fc.bias.mul_(factor)
    first, second = (_heatmap(net, GradCam(layers=("conv2",), target=2)) for net in (model, scaled))
    assert np.abs(first).max() > 0
    np.testing.assert_allclose(second, factor * first, rtol=1e-6)


def _heatmap(model, method, name="conv2"):
    subject, images = tiny_subject(model, 4), tiny_images(model, 4)
    (block,) = tiny_blocks(images, batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        return method.attribute(batch, subject)[f"{name}/heatmap"]


@pytest.mark.parametrize("target", ["predicted", 3])
@pytest.mark.parametrize(
    ("factory", "layer"), [(conv_net, "conv1"), (conv_net, "conv2"), (residual_net, "block1"), (signal_net, "conv1")]
)
def test_agrees_with_captum(factory, layer, target):
    model = factory().double()
    images = torch.from_numpy(tiny_images(model, 4)).double()
    classes = model(images).argmax(1) if target == "predicted" else torch.full((4,), target)
    module = model.get_submodule(layer)
    want = LayerGradCam(model, module).attribute(images, target=classes).squeeze(1).detach()
    got = _heatmap(model, GradCam(layers=(layer,), target=target, relu=False), layer)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_several_layers_are_stored_at_their_own_resolution():
    model = functional_net()
    method = GradCam(layers=("kind:conv", "relu#1"))
    subject = tiny_subject(model, 4)
    sized = {array.path: array for array in method.writes(subject)}
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rows = method.attribute(batch, subject)
    assert set(rows) == set(sized)
    assert len({rows[path].shape[1:] for path in rows}) > 1
    for path, row in rows.items():
        assert row.shape == (4, *sized[path].shape[1:])
        assert sized[path].dims == ("image", "y", "x")


def test_layers_without_space_are_refused():
    subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match=r"fc .*no spatial axes"):
        GradCam(layers=("fc",)).asks(subject)
    with pytest.raises(ConfigError, match="at least one"):
        GradCam(layers=())
    assert isinstance(GradCam().asks(subject), Ask)


@pytest.mark.parametrize(("factory", "layer"), [(conv_net, "relu2"), (residual_net, "block2")])
def test_at_the_default_layer_of_a_pooled_network_the_map_adds_up_to_the_logit(factory, layer):
    model = factory().double()
    (chosen,) = select_layers(GradCam().layers, tiny_subject(model).layers)
    assert chosen.name == layer
    heatmap = _heatmap(model, GradCam(relu=False, target=1), layer)
    logits = model(torch.from_numpy(tiny_images(model, 4)).double()).numpy()
    np.testing.assert_allclose(heatmap.sum((1, 2)), logits[:, 1] - float(model.fc.bias[1]), rtol=1e-5)
