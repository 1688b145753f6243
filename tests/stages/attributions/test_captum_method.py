import copy
import functools
import pickle
import random
import sys
from dataclasses import replace

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from convaudit.stages.attributions.captum_classes import find_class
from convaudit.stages.attributions.captum_method import Captum, CaptumLayer, grid
from convaudit.stages.contract import Ablate, Randomise, settings
from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.network.batch import opened

from ...tiny_models import conv_net, functional_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject


def _subject(model, n):
    return replace(tiny_subject(model, n), label=np.arange(n) % 3)


def _rows(method, model, n=4, bad=(), **options):
    subject, images = _subject(model, n), tiny_images(model, n)
    (block,) = tiny_blocks(images, batch=n, bad=bad)
    with opened(model, block, subject, method.asks(subject), **options) as batch:
        return method.attribute(batch, subject)


def _map(rows):
    return rows["heatmap"][:, 0].astype(float) * rows["scale"].reshape(-1, *[1] * (rows["heatmap"].ndim - 2))


def _tensor(model, n=4):
    return torch.from_numpy(tiny_images(model, n)).double()


PIXELS = {
    "IntegratedGradients": {"n_steps": 7, "baselines": 0.25},
    "Saliency": {"abs": False},
    "InputXGradient": {},
    "FeatureAblation": {"perturbations_per_eval": 4},
}


@pytest.mark.parametrize("factory", [conv_net, functional_net, residual_net, signal_net])
@pytest.mark.parametrize("name", PIXELS)
def test_it_is_captum_called_directly(name, factory):
    model = factory().double()
    call = PIXELS[name]
    got = _map(_rows(Captum(f"captum.attr.{name}", call=call, target=2), model))
    explainer = getattr(captum.attr, name)(model)
    want = explainer.attribute(_tensor(model).requires_grad_(), target=2, **call).sum(1).detach().numpy()
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("target", ["predicted", "label", "top:2"])
def test_the_class_is_ours(target):
    model = conv_net().double()
    rows = _rows(Captum("DeepLift", target=target), model)
    subject, images = _subject(model, 4), _tensor(model)
    order = model(images).argsort(dim=1, descending=True)
    labels = torch.as_tensor(subject.label)[:, None]
    classes = {"predicted": order[:, :1], "top:2": order[:, :2], "label": labels}[target]
    assert rows["heatmap"].shape[1] == classes.shape[1]
    for slot in range(classes.shape[1]):
        direct = captum.attr.DeepLift(_plain(model)).attribute(images, target=classes[:, slot])
        got = rows["heatmap"][:, slot].astype(float) * rows["scale"][:, slot, None, None]
        np.testing.assert_allclose(got, direct.sum(1).detach().numpy(), atol=1e-3 * float(direct.abs().max()))


def _plain(model):
    """A copy without in-place ReLUs, as Captum asks for."""
    made = copy.deepcopy(model)
    for module in made.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return made


@pytest.mark.parametrize(("factory", "layer"), [(conv_net, "conv2"), (residual_net, "block1"), (signal_net, "conv1")])
@pytest.mark.parametrize("name", ["LayerGradCam", "LayerGradientXActivation", "LayerConductance"])
def test_layer_maps_are_captums(name, factory, layer):
    model = factory().double()
    call = {"n_steps": 5} if name == "LayerConductance" else {}
    rows = _rows(CaptumLayer(name, call=call, layers=(layer,), target=1), model)
    twin = _plain(model)
    explainer = getattr(captum.attr, name)(twin, twin.get_submodule(layer))
    want = explainer.attribute(_tensor(model), target=1, **call).sum(1).detach().numpy()
    got = rows[f"{layer}/heatmap"][:, 0]
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * np.abs(want).max())


def test_on_a_linear_map_it_is_weight_times_input():
    class Line(nn.Module):
        input_shape = (2, 4, 3)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 5, (4, 3), bias=False)

        def forward(self, x):
            return self.conv(x).flatten(1)

    model = Line().double().eval().requires_grad_(False)
    got = _map(_rows(Captum("IntegratedGradients", call={"n_steps": 3}, target=3), model))
    want = (model.conv.weight[3] * _tensor(model)).sum(1).numpy()
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize(
    "method",
    [
        Captum("GradientShap", call={"baselines": 0.0, "n_samples": 3, "stdevs": 0.2}),
        Captum("KernelShap", cells=3, call={"n_samples": 12}),
        Captum("NoiseTunnel", arguments={"attribution_method": "Saliency"}, call={"nt_samples": 3}),
        Captum("DeepLiftShap", call={"baselines": 0.0}),
    ],
    ids=lambda method: method.attribution,
)
def test_what_is_drawn_belongs_to_the_image_and_not_to_its_batch(method):
    model = conv_net().double()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    whole = _rows(method, model)
    subject, images = tiny_subject(model, 4), tiny_images(model, 4)
    for block in tiny_blocks(images, batch=1):
        with opened(model, block, subject, method.asks(subject)) as batch:
            alone = method.attribute(batch, subject)
        row = int(block.positions[0])
        np.testing.assert_allclose(alone["scale"][0], whole["scale"][row], rtol=1e-6)
        np.testing.assert_allclose(alone["heatmap"][0].astype(float), whole["heatmap"][row].astype(float), atol=1e-3)
    torch.manual_seed(99)
    again = _rows(method, model)
    torch.set_rng_state(before[0])
    np.testing.assert_array_equal(again["heatmap"], whole["heatmap"])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tobytes() == before[2]  # noqa: NPY002


@pytest.mark.parametrize("name", ["DeepLift", "GuidedBackprop", "LRP", "Deconvolution"])
def test_nothing_is_left_on_the_model(name):
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    attributes = {key: set(vars(module)) for key, module in model.named_modules()}
    _rows(Captum(name), model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert attributes == {key: set(vars(module)) for key, module in model.named_modules()}
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert model.relu1.inplace


def test_a_model_that_was_written_on_is_copied_anew():
    model = conv_net().double()
    method = Captum("Saliency", target=0)
    first = _map(_rows(method, model))
    with torch.no_grad():
        model.fc.weight.mul_(3)
    np.testing.assert_allclose(_map(_rows(method, model)), 3 * first, rtol=2e-3, atol=1e-7)


def test_a_variant_with_other_parameters_is_what_is_explained():
    model = conv_net().double()
    variant = Randomise(("fc",), 5)
    method = Captum("Saliency", target=0)
    got = _map(_rows(method, model, variant=variant))
    from convaudit.stages.network.variants import redrawn

    other = copy.deepcopy(model)
    other.load_state_dict({**other.state_dict(), **redrawn(model, ("fc",), 5)})
    want = captum.attr.Saliency(other).attribute(_tensor(model), target=0, abs=True).sum(1).detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-3 * want.max())
    assert np.abs(_map(_rows(method, model)) - want).max() > 0.01 * want.max()


def test_a_variant_that_silences_channels_is_refused():
    with pytest.raises(StageError, match="channels of conv2 set to zero"):
        _rows(Captum("Saliency"), conv_net(), variant=Ablate("conv2", (0,)))


@pytest.mark.parametrize(("factory", "told"), [(conv_net, 0), (functional_net, 1), (residual_net, 1), (signal_net, 1)])
@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_relus_that_captum_does_not_see_are_told(name, factory, told):
    notes, _, findings = Captum(name).told({}, tiny_subject(factory()))
    assert notes["attribution"] == f"captum.attr.{name}"
    assert [finding.code for finding in findings] == ["attributions/unseen-relu"] * told
    assert not Captum("IntegratedGradients").told({}, tiny_subject(factory()))[2]


def test_it_can_be_given_as_a_node_of_its_own():
    node = functools.partial(captum.attr.IntegratedGradients, multiply_by_inputs=False)
    method = Captum(node, call={"n_steps": 4})
    assert method == Captum("captum.attr.IntegratedGradients", {"multiply_by_inputs": False}, {"n_steps": 4})
    assert settings(method)["attribution"] == "captum.attr.IntegratedGradients"
    assert pickle.loads(pickle.dumps(method)) == method
    assert hash(method) == hash(pickle.loads(pickle.dumps(method)))


def test_a_class_of_ones_own_is_found(monkeypatch):
    module = type(sys)("own_attribution")

    class Mine(captum.attr.Saliency):
        pass

    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "own_attribution", module)
    assert find_class("own_attribution.Mine") is Mine
    model = conv_net().double()
    np.testing.assert_array_equal(
        _rows(Captum("own_attribution.Mine"), model)["heatmap"], _rows(Captum("Saliency"), model)["heatmap"]
    )


@pytest.mark.parametrize("space", [(5, 4), (7,)])
def test_a_grid_numbers_every_cell_once(space):
    mask = grid(space, 3)
    assert mask.shape == (1, 1, *space)
    assert sorted(mask.unique().tolist()) == list(range(3 ** len(space)))
    single = grid(space, 99)
    assert sorted(single.flatten().tolist()) == list(range(int(np.prod(space))))


WRONG = [
    ({"attribution": "captum.attr.IntegratedGradient"}, r"did you mean 'IntegratedGradients'"),
    ({"attribution": "Attribution"}, r"'captum\.attr\.Attribution' is no attribution class"),
    ({"attribution": "captum.attr.Max"}, r"no attribution class"),
    ({"attribution": "no.such.Thing"}, r"cannot import 'no\.such\.Thing'"),
    ({"attribution": "FeaturePermutation"}, r"between the images of a batch"),
    ({"attribution": 3}, r"expected the name of a class, got 3"),
    ({"attribution": "LayerGradCam"}, r"CaptumLayer"),
    ({"attribution": "GuidedGradCam"}, r"captum\.layer: expected the name of a module"),
    ({"attribution": "Saliency", "layer": "conv1"}, r"captum\.layer: expected null"),
    ({"attribution": "Saliency", "call": {"aps": True}}, r"captum\.call\.aps: Saliency has no such setting.*'abs'"),
    ({"attribution": "Saliency", "call": {"target": 1}}, r"captum\.call\.target: Saliency has no such setting"),
    ({"attribution": "Saliency", "arguments": {"x": 1}}, r"captum\.arguments\.x"),
    ({"attribution": "GradientShap"}, r"captum\.call\.baselines: GradientShap needs a value"),
    ({"attribution": "Occlusion"}, r"captum\.call\.sliding_window_shapes: Occlusion needs a value"),
    ({"attribution": "NoiseTunnel"}, r"captum\.arguments\.attribution_method: NoiseTunnel needs a value"),
    ({"attribution": "NeuronGradient", "layer": "conv1"}, r"captum\.call\.neuron_selector"),
    ({"attribution": "Saliency", "cells": 3}, r"captum\.cells: expected null"),
    ({"attribution": "Lime", "cells": 0}, r"captum\.cells"),
]


@pytest.mark.parametrize(("settings_", "message"), WRONG, ids=[str(s)[:70] for s, _ in WRONG])
def test_wrong_settings_are_refused_before_anything_runs(settings_, message):
    with pytest.raises(ConfigError, match=message) as error:
        Captum(**settings_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "factory", "message"),
    [
        (lambda: Captum("Saliency", target="contrast"), signal_net, "one class at a time"),
        (lambda: Captum("GuidedGradCam", layer="conv9"), conv_net, r"did you mean 'conv"),
        (lambda: CaptumLayer("LayerGradCam", layers=("relu#1",)), functional_net, "no module that is called once"),
        (lambda: CaptumLayer("LayerGradCam", layers=("conv9",)), conv_net, r"did you mean 'conv"),
        (lambda: Captum("DeepLift"), functional_net, r"relu#0 is one call of several"),
    ],
)
def test_what_does_not_fit_the_network_is_refused_before_the_sweep(method, factory, message):
    with pytest.raises(ConfigError, match=message):
        method().asks(_subject(factory(), 4))


def test_a_map_of_the_input_is_no_layer_method():
    with pytest.raises(ConfigError, match=r"captum_method\.Captum$"):
        CaptumLayer("Saliency")


def test_without_captum_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"pip install 'convaudit\[captum\]'"):
        Captum("Saliency")


def test_bad_images_and_logits_that_are_not_finite_stay_blank():
    model = conv_net().double()
    rows = _rows(Captum("Saliency"), model, bad=(2,))
    assert np.isnan(rows["scale"][2])
    assert np.isfinite(rows["scale"][[0, 1, 3]]).all()
    with torch.no_grad():
        model.fc.bias[0] = torch.nan
    assert np.isnan(_rows(Captum("Saliency", target=1), model)["scale"]).all()
