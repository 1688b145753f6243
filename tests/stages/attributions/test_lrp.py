import copy
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.attributions.lrp import Lrp
from convaudit.stages.attributions.lrp_graph import as_modules
from convaudit.stages.contract import Randomise, settings
from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.layers import trace

from ...tiny_models import ALL, conv_net, functional_net, signal_net, tiny_blocks, tiny_images, tiny_subject

RULES = [
    "epsilon",
    "gamma",
    "alpha_beta",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
]


class Small(nn.Module):
    """Convolution, ReLU, mean, two linear layers, with biases; small enough to be propagated by hand."""

    input_shape = (2, 5, 4)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0))
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(torch.relu(self.conv(x)).mean((2, 3)))))


def _small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Small().double().eval().requires_grad_(False)


def _rows(method, model, n=3, bad=(), **options):
    subject, images = replace(tiny_subject(model, n), label=np.arange(n) % 3), tiny_images(model, n)
    (block,) = tiny_blocks(images, batch=n, bad=bad)
    with opened(model, block, subject, method.asks(subject), **options) as batch:
        return method.attribute(batch, subject)


def _map(rows, slot=0):
    heatmap = rows["heatmap"][:, slot].astype(float)
    return heatmap * rows["scale"][:, slot].reshape(-1, *[1] * (heatmap.ndim - 1))


def _conv_terms(model, image):
    """Every product that an output of the convolution is summed from: {output: [(input, product)]}."""
    weight, terms = model.conv.weight.numpy(), {}
    (step_y, step_x), (pad_y, pad_x) = model.conv.stride, model.conv.padding
    height = (5 + 2 * pad_y - 3) // step_y + 1
    width = (4 + 2 * pad_x - 2) // step_x + 1
    for k in range(3):
        for v in range(height):
            for u in range(width):
                terms[k, v, u] = []
                for c, dy, dx in np.ndindex(2, 3, 2):
                    y, x = v * step_y + dy - pad_y, u * step_x + dx - pad_x
                    if 0 <= y < 5 and 0 <= x < 4:
                        terms[k, v, u].append(((c, y, x), weight[k, c, dy, dx] * image[c, y, x]))
    return terms


def _away(z, epsilon):
    return z + (epsilon if z >= 0 else -epsilon)


def _linear_back(relevance, inputs, layer, epsilon, bias):
    """Bach et al. 2015, equation 58, one product at a time."""
    weight, offset = layer.weight.numpy(), layer.bias.numpy() * bias
    back = np.zeros(len(inputs))
    for j in range(len(relevance)):
        z = sum(weight[j, i] * inputs[i] for i in range(len(inputs))) + offset[j]
        for i in range(len(inputs)):
            back[i] += weight[j, i] * inputs[i] / _away(z, epsilon) * relevance[j]
    return back


def _replica(model, image, target, epsilon, bias, plus):
    """Relevance of one image, layer by layer; `plus` uses positive products alone in the convolution."""
    terms = _conv_terms(model, image)
    offset = model.conv.bias.numpy()
    conv = {at: sum(p for _, p in products) + offset[at[0]] for at, products in terms.items()}
    fired = {at: max(z, 0.0) for at, z in conv.items()}
    size = len(fired) // 3
    mean = np.array([sum(value for at, value in fired.items() if at[0] == k) / size for k in range(3)])
    hidden = np.maximum(model.fc1.weight.numpy() @ mean + model.fc1.bias.numpy(), 0)
    logits = model.fc2.weight.numpy() @ hidden + model.fc2.bias.numpy()
    relevance = np.zeros(5)
    relevance[target] = logits[target]
    relevance = _linear_back(relevance, hidden, model.fc2, epsilon, bias)
    relevance = _linear_back(relevance, mean, model.fc1, epsilon, bias)
    back = np.zeros(image.shape)
    for at, products in terms.items():
        share = fired[at] / size / _away(mean[at[0]], 1e-6) * relevance[at[0]]
        chosen = [(i, max(p, 0.0) if plus else p) for i, p in products]
        z = sum(p for _, p in chosen) + (max(offset[at[0]], 0.0) if plus else offset[at[0]]) * bias
        for i, product in chosen:
            back[i] += product / _away(z, 1e-6 if plus else epsilon) * share
    return back.sum(0)


@pytest.mark.parametrize("bias", ["absorb", "ignore"])
@pytest.mark.parametrize(("rule", "epsilon"), [("epsilon", 0.1), ("epsilon", 1e-6), ("epsilon_plus", 0.1)])
def test_agrees_with_the_equations(rule, epsilon, bias):
    model, target = _small(), 2
    got = _map(_rows(Lrp(rule=rule, epsilon=epsilon, bias=bias, target=target), model))
    images = tiny_images(model, 3).astype(float)
    want = [_replica(model, i, target, epsilon, bias == "absorb", rule == "epsilon_plus") for i in images]
    for mine, other in zip(got, want, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-3 * np.abs(other).max())


class Line(nn.Module):
    input_shape = (2, 4, 3)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, (4, 3), bias=False)

    def forward(self, x):
        return self.conv(x).flatten(1)


def test_of_a_linear_network_it_is_weight_times_input():
    model = Line().double().eval().requires_grad_(False)
    rows = _rows(Lrp(rule="epsilon", target=3, epsilon=1e-12), model)
    want = (model.conv.weight[3] * torch.from_numpy(tiny_images(model, 3)).double()).sum(1).numpy()
    np.testing.assert_allclose(_map(rows), want, atol=1e-3 * np.abs(want).max())
    np.testing.assert_allclose(rows["gap"], 0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", sorted(ALL))
def test_relevance_is_conserved_where_biases_get_none(net, rule):
    model = ALL[net]().double()
    method = Lrp(rule=rule, bias="ignore", epsilon=1e-9, target="predicted")
    assert method.conserves
    rows = _rows(method, model)
    logits = model(torch.from_numpy(tiny_images(model, 3)).double()).amax(1).numpy()
    np.testing.assert_allclose(rows["explained"][:, 0], logits, rtol=1e-6)
    share = np.abs(rows["gap"] / rows["explained"])
    assert np.median(share) < 1e-3, share
    total = _map(rows).reshape(3, -1).sum(1)
    np.testing.assert_allclose(total - logits, rows["gap"][:, 0], atol=1e-3 * np.abs(_map(rows)).sum())


@pytest.mark.parametrize("net", sorted(ALL))
def test_without_biases_nothing_is_lost_at_all(net):
    model = ALL[net]().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
    rows = _rows(Lrp(rule="epsilon", epsilon=1e-9), model)
    assert np.abs(rows["gap"] / rows["explained"]).max() < 1e-3


def test_scaling_the_logits_scales_the_relevance():
    model, scaled = conv_net().double(), conv_net().double()
    scaled.fc.weight.mul_(4)
    scaled.fc.bias.mul_(4)
    first, second = (_rows(Lrp(target=1), net) for net in (model, scaled))
    np.testing.assert_allclose(_map(second), 4 * _map(first), rtol=2e-3, atol=1e-6)


def test_contrast_is_the_difference_of_two():
    model = conv_net().double()
    contrast, predicted, label = (_map(_rows(Lrp(target=t), model)) for t in ("contrast", "predicted", "label"))
    wrong = np.isfinite(contrast).all((1, 2))
    assert wrong.sum() > 0
    np.testing.assert_allclose(contrast[wrong], (predicted - label)[wrong], atol=2e-3 * np.abs(predicted).max())
    right = model(torch.from_numpy(tiny_images(model, 3)).double()).argmax(1).numpy() == np.arange(3) % 3
    np.testing.assert_array_equal(wrong, ~right)


def test_several_targets_share_one_pass_and_bad_images_stay_blank():
    model = conv_net().double()
    rows = _rows(Lrp(target="top:2"), model, bad=(1,))
    assert rows["heatmap"].shape == (3, 2, 12, 9)
    assert np.isnan(rows["scale"][1]).all()
    assert np.isfinite(rows["scale"][[0, 2]]).all()
    np.testing.assert_array_equal(
        rows["heatmap"][[0, 2], 0], _rows(Lrp(target="predicted"), model, bad=(1,))["heatmap"][[0, 2], 0]
    )


def test_parameters_of_a_variant_are_what_is_explained():
    model, method = conv_net().double(), Lrp(target=0)
    from convaudit.stages.network.variants import redrawn

    other = copy.deepcopy(model)
    other.load_state_dict({**other.state_dict(), **redrawn(model, ("conv2",), 5)})
    got = _map(_rows(method, model, variant=Randomise(("conv2",), 5)))
    np.testing.assert_allclose(got, _map(_rows(method, other)), atol=1e-9)
    assert np.abs(got - _map(_rows(method, model))).max() > 0


@pytest.mark.parametrize("net", sorted(ALL))
def test_the_chain_of_modules_is_the_same_function(net):
    model = ALL[net]().double()
    images = torch.from_numpy(tiny_images(model, 3)).double()
    before = copy.deepcopy(model.state_dict())
    graph = as_modules(model, images)
    torch.testing.assert_close(graph(images), model(images))
    assert graph.foreign == ()
    assert not any("BatchNorm" in type(module).__name__ for module in graph.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))


class Foreign(nn.Module):
    input_shape = (2, 5, 4)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)

    def forward(self, x):
        x = self.conv(x)
        return (x * torch.sigmoid(x)).mean((2, 3))


class Chooses(Foreign):
    def forward(self, x):
        x = self.conv(x)
        return (x if x.sum() > 0 else -x).mean((2, 3))


def test_steps_without_a_rule_are_told():
    model = Foreign().eval().requires_grad_(False)
    method, subject = Lrp(), tiny_subject(Foreign().eval(), 3)
    (block,) = tiny_blocks(tiny_images(model, 3), batch=3)
    with opened(model, block, subject, method.asks(subject)) as batch:
        _, _, findings = method.told(method.facts(batch, subject), subject)
    assert [finding.code for finding in findings] == ["attributions/no-rule"]
    assert "mul, sigmoid" in findings[0].title


def test_a_network_without_a_single_graph_is_refused():
    model = Chooses().eval().requires_grad_(False)
    assert trace(model, torch.zeros(1, 2, 5, 4))
    with pytest.raises(StageError, match=r"lrp: the network cannot be traced .*another method"):
        _rows(Lrp(), model)


def test_how_much_is_missing_is_measured():
    subject = tiny_subject(conv_net())
    facts = {"explained": np.array([[2.0], [4.0], [-8.0], [np.nan]]), "gap": np.array([[0.2], [-2.0], [0.0], [np.nan]])}
    notes, (measured,), findings = Lrp(bias="ignore").told(facts, subject)
    assert (measured.name, measured.path, measured.n) == ("gap", "gap", 3)
    assert measured.value == pytest.approx(0.1)
    assert [(f.code, f.images) for f in findings] == [("attributions/incomplete", (1, 0))]
    assert notes["adds_up_to"] == "logit"
    assert Lrp().told(facts, subject)[2] == ()
    assert not Lrp().conserves


@pytest.mark.parametrize("factory", [functional_net, signal_net])
def test_nothing_is_left_on_the_model(factory):
    model = factory()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    _rows(Lrp(), model)
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0.0}, r"lrp\.epsilon: expected above 0"),
        ({"gamma": -1.0}, r"lrp\.gamma"),
        ({"alpha": 2.0, "beta": 2.0}, r"alpha - beta = 1"),
        ({"alpha": 0.5, "beta": -0.5}, r"none below 0"),
        ({"tolerance": 0.0}, r"lrp\.tolerance"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Lrp(**wrong)


def test_without_zennit_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zennit", None)
    for name in ("composites", "rules", "types"):
        monkeypatch.delitem(sys.modules, f"zennit.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'convaudit\[lrp\]'"):
        Lrp()


def test_it_travels():
    method = Lrp(rule="gamma")
    assert pickle.loads(pickle.dumps(method)) == method
    assert settings(method)["rule"] == "gamma"
