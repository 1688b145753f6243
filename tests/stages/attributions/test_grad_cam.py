from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional as F

from convaudit.stages.attributions.grad_cam import GradCam, grad_cam
from convaudit.stages.contract import Ask, Randomise
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
        rows = method.attribute(batch, subject)[f"{name}/heatmap"]
    assert rows.shape[:2] == (4, 1)
    return rows[:, 0]


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
        assert sized[path].dims == ("image", "target", "y", "x")


def test_layers_without_space_are_refused():
    subject = tiny_subject(conv_net())
    with pytest.raises(ConfigError, match=r"fc has 0 spatial axes"):
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


class Unpooled(nn.Module):
    """As many channels as features, but what is pooled is weighted by position before it reaches the linear layer."""

    input_shape = (2, 6, 5)

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.fc = nn.Conv2d(2, 4, 2), nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        if self.kind == "weighted":
            return self.fc((x * torch.linspace(0, 2, 20, dtype=x.dtype).view(5, 4)).mean((2, 3)))
        if self.kind == "largest":
            return self.fc(x.amax((2, 3)))
        return self.fc(x.mean((2, 3))) ** 2


def _unpooled(kind):
    torch.manual_seed(0)
    return Unpooled(kind).double().eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["weighted", "largest", "squared"])
def test_networks_that_only_look_pooled_are_derived(kind):
    model = _unpooled(kind)
    subject = tiny_subject(model, 4)
    method = GradCam(target="all", relu=False)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rows = method.attribute(batch, subject)["functional_relu/heatmap"]
        notes, _, _ = method.told(method.facts(batch, subject), subject)
    for target in range(5):
        # Captum takes modules only: here the ReLU is a function, and so it is derived by hand.
        x = F.relu(model.conv(torch.from_numpy(block.images).double())).requires_grad_()
        logits = _after(model, x)
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), x)
        want = _replica(x.detach().numpy(), gradient.numpy(), relu=False)
        np.testing.assert_allclose(rows[:, target], want, rtol=1e-5, atol=1e-9)
    assert notes["weights"]["functional_relu"].startswith("mean gradients")


def _after(model, x):
    if model.kind == "weighted":
        return model.fc((x * torch.linspace(0, 2, 20, dtype=x.dtype).view(5, 4)).mean((2, 3)))
    return model.fc(x.amax((2, 3))) if model.kind == "largest" else model.fc(x.mean((2, 3))) ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("factory", "layer"), [(conv_net, "relu2"), (residual_net, "block2"), (signal_net, "functional_relu#1")]
)
def test_all_classes_of_a_pooled_network_need_no_backward_pass(factory, layer, relu, dtype, monkeypatch):
    model = factory().to(dtype)
    subject = tiny_subject(model, 4)
    method = GradCam(target="all", relu=relu)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4, bad=(2,))
    with opened(model, block, subject, method.asks(subject)) as batch:
        want = [grad_cam(batch.activation(layer), batch.gradient(c, layer), relu).numpy() for c in range(5)]

    def refuse(*_args, **_kwargs):
        raise AssertionError("a backward pass")

    with opened(model, block, subject, method.asks(subject)) as batch:
        monkeypatch.setattr(torch.autograd, "grad", refuse)
        rows = method.attribute(batch, subject)[f"{layer}/heatmap"]
        notes, _, _ = method.told(method.facts(batch, subject), subject)
    want = np.stack(want, 1)
    assert np.isnan(rows[2]).all()
    assert np.nanmax(want) > 0
    np.testing.assert_allclose(rows, want, rtol=0, atol=1e-6 * np.nanmax(np.abs(want)))
    assert notes["weights"][layer].endswith("without a backward pass")


def test_contrast_and_label_take_the_same_short_way():
    model = conv_net().double()
    subject = tiny_subject(model, 4)
    subject = replace(subject, label=np.array([0, 1, 2, 3]))
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    for target in ("contrast", "label", "top:3"):
        method = GradCam(target=target, relu=False)
        with opened(model, block, subject, method.asks(subject)) as batch:
            rows = method.attribute(batch, subject)["relu2/heatmap"]
            for column, one in enumerate(method.targets(subject)):
                want = grad_cam(batch.activation("relu2"), batch.gradient(one, "relu2"), relu=False)
                np.testing.assert_allclose(rows[:, column], want.numpy(), rtol=1e-5, atol=1e-9)


def test_a_randomised_linear_layer_is_the_one_that_counts():
    model = conv_net().double()
    subject = tiny_subject(model, 4)
    method = GradCam(target=1, relu=False)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    asks = method.asks(subject)
    with opened(model, block, subject, asks, variant=Randomise(("fc",), 3)) as batch:
        got = method.attribute(batch, subject)["relu2/heatmap"][:, 0]
        want = grad_cam(batch.activation("relu2"), batch.gradient(1, "relu2"), relu=False).numpy()
        notes, _, _ = method.told(method.facts(batch, subject), subject)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)
    assert "without a backward pass" in notes["weights"]["relu2"]
    assert not np.allclose(got, _heatmap(model, method, "relu2"))


def test_notes_say_where_cells_lie():
    model = conv_net()
    method = GradCam(layers=("conv1", "relu2"))
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        notes, _, _ = method.told(method.facts(batch, subject), subject)
    rendering = notes["rendering"]
    assert rendering["kind"] == "layer"
    assert rendering["unaligned"] == {}
    assert rendering["geometry"]["conv1"] == {"stride": [1, 1], "centre": [0, 0]}
    assert rendering["geometry"]["relu2"] == {"stride": [2, 2], "centre": [2.5, 1.5]}
    assert notes["weights"]["conv1"].startswith("mean gradients")


def test_notes_say_why_cells_lie_nowhere():
    class Stretched(nn.Module):
        input_shape = (2, 6, 5)

        def __init__(self):
            super().__init__()
            self.conv, self.two, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 2), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(x).flip(2)
            return self.fc(F.relu(self.two(x)).mean((2, 3)))

    model = Stretched().eval().requires_grad_(False)
    method = GradCam(layers=("conv", "two"))
    subject = tiny_subject(model, 4)
    (block,) = tiny_blocks(tiny_images(model, 4), batch=4)
    with opened(model, block, subject, method.asks(subject)) as batch:
        rendering = method.told(method.facts(batch, subject), subject)[0]["rendering"]
    assert list(rendering["geometry"]) == ["conv"]
    assert "geometry of two" in rendering["unaligned"]["two"]
