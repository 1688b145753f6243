"""Gradients of whole networks under the rules, as a batch offers them."""

import threading

import numpy as np
import pytest
import tiny_models as tiny
import torch
from captum.attr import Deconvolution, GuidedBackprop
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from convaudit.stages.contract import Ablate, Ask, Gradient, Unit
from convaudit.stages.errors import ModelError, StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.layers import trace
from convaudit.stages.network.rules import ReluRules

INF = np.inf
RULES = ("plain", "guided", "deconvnet")
every_net = pytest.mark.parametrize("kind", sorted(tiny.ALL))


def gradient(target, rule, wrt="input"):
    return Gradient(target, wrt, rule)


def guided(target, wrt="input"):
    return gradient(target, "guided", wrt)


def ran(model, *gradients, n=4, keep=(), variant=None, observe=None, seen=()):
    subject = tiny.tiny_subject(model, n)
    (block,) = tiny.tiny_blocks(tiny.tiny_images(model, n), n)
    more = {} if variant is None else {"variant": variant}
    return opened(model, block, subject, Ask(seen, keep, gradients), observe=observe, **more)


def closed(gradient, value, upper, rule):
    """One ReLU backwards, one number at a time."""
    out = np.zeros_like(gradient)
    for at in np.ndindex(*gradient.shape):
        g, z = gradient[at], value[at]
        is_open = 0 < z < upper
        if rule == "plain":
            out[at] = g if is_open else 0.0
        elif rule == "guided":
            out[at] = g if is_open and g > 0 else 0.0
        else:
            out[at] = max(g, 0.0)
    return out


def convolve_back(gradient, kernel, shape):
    x = np.zeros(shape)
    for i, f, r, c in np.ndindex(*gradient.shape):
        x[i, :, r : r + kernel.shape[2], c : c + kernel.shape[3]] += gradient[i, f, r, c] * kernel[f]
    return x


class SecondConsumer(nn.Module):
    """Both the convolution and its ReLU are used, as in pre-activation skips."""

    input_shape = (2, 5, 4)

    def __init__(self, functional):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.relu = F.relu if functional else nn.ReLU()

    def forward(self, x):
        z = self.conv(x)
        return (2 * self.relu(z) - 3 * z).flatten(2).sum(2)


@pytest.mark.parametrize("functional", [False, True])
def test_a_second_consumer_in_a_model(functional):
    torch.manual_seed(0)
    model = SecondConsumer(functional).double().eval().requires_grad_(False)
    with ran(model, guided(1), gradient(1, "deconvnet"), n=3) as batch:
        kernel = model.conv.weight.numpy()
        z = model.conv(batch.images).numpy()
        seed = np.zeros_like(z)
        seed[:, 1] = 1
        for rule in ("guided", "deconvnet"):
            want = convolve_back(closed(2 * seed, z, INF, rule) - 3 * seed, kernel, (3, 2, 5, 4))
            np.testing.assert_allclose(batch.gradient(1, "input", rule), want, rtol=1e-10, atol=1e-12)


class Reused(nn.Module):
    """One ReLU module, called twice in series, in place."""

    input_shape = (2, 6, 5)

    def __init__(self, inplace):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 4, 2)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x)))).mean((2, 3))


@pytest.mark.parametrize("inplace", [False, True])
def test_one_module_used_twice(inplace):
    torch.manual_seed(1)
    model = Reused(inplace).double().eval().requires_grad_(False)
    with ran(model, *(gradient(2, rule) for rule in RULES), n=2) as batch:
        assert batch.relu_calls == 2
        z1 = model.first(batch.images).numpy()
        z2 = model.second(torch.from_numpy(np.maximum(z1, 0))).numpy()
        for rule in RULES:
            seed = np.zeros_like(z2)
            seed[:, 2] = 1 / np.prod(z2.shape[2:])
            back = closed(seed, z2, INF, rule)
            back = closed(convolve_back(back, model.second.weight.numpy(), z1.shape), z1, INF, rule)
            want = convolve_back(back, model.first.weight.numpy(), (2, 2, 6, 5))
            np.testing.assert_allclose(batch.gradient(2, "input", rule), want, rtol=1e-9, atol=1e-12)


class Gated(nn.Module):
    """ReLUs beside other nonlinearities, as modules and as functions."""

    input_shape = (3, 6, 5)

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.hard = nn.Conv2d(3, 4, 3), nn.SiLU(inplace=True), nn.Hardswish()

    def forward(self, x):
        x = self.act(self.conv(x))
        x = self.hard(F.relu(x)) * torch.sigmoid(x)
        return (F.gelu(x) * x.sigmoid()).mean((2, 3))


def test_other_nonlinearities_are_counted():
    model = Gated().eval().requires_grad_(False)
    with ran(model, guided(1)) as batch:
        assert batch.relu_calls == 1
        assert batch.other_calls == {"silu": 1, "hardswish": 1, "sigmoid": 2, "gelu": 1}
    with ran(model, Gradient(1, "input")) as batch:
        assert batch.other_calls == {}
    for kind in tiny.ALL:
        with ran(tiny.ALL[kind](), guided(1)) as batch:
            assert batch.other_calls == {}


@every_net
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_riding_along_moves_no_bit_of_the_others(kind, dtype):
    model = tiny.ALL[kind]().to(dtype)
    layer = trace(model, torch.zeros(1, *model.input_shape, dtype=dtype))[2].name
    plain = [Gradient("predicted", "input"), Gradient(3, layer)]
    with ran(model, *plain, keep=(layer,)) as alone, ran(model, guided(3), *plain, guided(3, layer)) as along:
        along.gradient(3, "input", "guided")
        assert torch.equal(alone.logits, along.logits)
        assert torch.equal(alone.activation(layer), along.activation(layer))
        for ask in plain:
            assert torch.equal(alone.gradient(ask.target, ask.wrt), along.gradient(ask.target, ask.wrt))
        assert not torch.equal(along.gradient(3, "input", "guided"), along.gradient(3, layer).new_zeros(()))
        assert alone.relu_calls == 0
        assert along.relu_calls == {"conv": 2, "functional": 5, "residual": 5, "signal": 2}[kind]


@every_net
def test_agrees_with_captum_where_captum_is_right(kind):
    model = tiny.ALL[kind]().double()
    images = torch.from_numpy(tiny.tiny_images(model)[:4]).double()
    modular = kind == "conv"
    with ran(model, guided(2), gradient(2, "deconvnet"), Gradient(2, "input")) as batch:
        for peer, rule in ((GuidedBackprop, "guided"), (Deconvolution, "deconvnet")):
            want = peer(model).attribute(images.clone().requires_grad_(), target=2).detach()
            got = batch.gradient(2, "input", rule)
            assert torch.equal(got, want) if modular else not torch.allclose(got, want)
            assert not torch.allclose(got, batch.gradient(2, "input"))


@pytest.mark.parametrize(("name", "same"), [("resnet18", True), ("squeezenet1_1", True), ("googlenet", False)])
def test_torchvision_against_captum(name, same):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = getattr(models, name)(num_classes=5, **options).double().eval().requires_grad_(False)
    model.input_shape = (3, 64, 48)
    images = torch.from_numpy(tiny.tiny_images(model, 2)).double()
    with ran(model, guided(1), gradient(1, "deconvnet"), Gradient(1, "input"), n=2) as batch:
        plain = batch.gradient(1, "input")
        for peer, rule in ((GuidedBackprop, "guided"), (Deconvolution, "deconvnet")):
            want = peer(model).attribute(images.clone().requires_grad_(), target=1).detach()
            got = batch.gradient(1, "input", rule)
            scale = float(got.abs().max())
            assert scale > 0
            assert float((got - plain).abs().max()) > 0.1 * scale
            assert (float((got - want).abs().max()) <= 1e-12 * scale) == same
        assert batch.relu_calls == {"resnet18": 17, "squeezenet1_1": 26, "googlenet": 57}[name]


@every_net
def test_in_single_precision_it_is_the_same_to_rounding(kind):
    asks = [gradient(1, rule) for rule in RULES]
    with ran(tiny.ALL[kind](), *asks) as single, ran(tiny.ALL[kind]().double(), *asks) as double:
        for rule in RULES:
            want = double.gradient(1, "input", rule)
            got = single.gradient(1, "input", rule).double()
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_layers_that_are_ablated():
    model = tiny.conv_net().double()
    ablate = Ablate("relu1", (0, 2))
    with ran(model, guided(1), guided(1, "relu1"), variant=ablate) as batch, ran(model, guided(1)) as whole:
        assert not torch.allclose(batch.gradient(1, "input", "guided"), whole.gradient(1, "input", "guided"))
        assert torch.isfinite(batch.gradient(1, "relu1", "guided")).all()


def test_bad_images_and_images_without_a_label_are_blank():
    model = tiny.conv_net()
    subject, images = tiny.tiny_subject(model, 4), tiny.tiny_images(model, 4)
    (block,) = tiny.tiny_blocks(images, 4, bad=(2,))
    with opened(model, block, subject, Ask(gradients=(guided("label"), guided(Unit("conv2", 1))))) as batch:
        finite = torch.isfinite(batch.gradient("label", "input", "guided")).flatten(1).all(1)
        assert finite.tolist() == [True, False, False, True]
        finite = torch.isfinite(batch.gradient(Unit("conv2", 1), "input", "guided")).flatten(1).all(1)
        assert finite.tolist() == [True, True, False, True]


class Smooth(nn.Module):
    """A network without a single ReLU."""

    input_shape = (3, 6, 5)

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.GELU()

    def forward(self, x):
        return self.act(self.conv(x)).mean((2, 3))


def test_a_network_without_a_relu_is_refused():
    model = Smooth().eval().requires_grad_(False)
    with pytest.raises(StageError, match="no call of a ReLU was caught"), ran(model, guided(1)):
        pass


def test_what_observers_compute_is_not_counted():
    model = Smooth().eval().requires_grad_(False)

    def observe(_layer, activation, _valid):
        return activation.clamp(min=0).sigmoid().sum()

    with (
        pytest.raises(StageError, match="no call of a ReLU was caught"),
        ran(model, guided(1), observe=observe, seen=("conv",)),
    ):
        pass
    for kind in tiny.ALL:
        model = tiny.ALL[kind]()
        seen = tuple(layer.name for layer in trace(model, torch.zeros(1, *model.input_shape)))
        with ran(model, guided(1)) as alone, ran(model, guided(1), observe=observe, seen=seen) as watched:
            assert alone.relu_calls == watched.relu_calls > 0
            assert watched.other_calls == {}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_and_compiled_models_are_refused():
    model = tiny.conv_net()
    images = torch.zeros(1, *model.input_shape)
    with pytest.raises(ModelError, match="TorchScript"):
        trace(torch.jit.trace(model, images), images)
    with pytest.raises(ModelError, match="compiled"):
        trace(torch.compile(model), images)


class Breaks(nn.Module):
    """Fails after some ReLUs."""

    input_shape = (3, 6, 5)

    def __init__(self):
        super().__init__()
        self.conv, self.broken = nn.Conv2d(3, 4, 3), False

    def forward(self, x):
        x = F.relu(self.conv(x))
        if self.broken:
            raise ValueError("broken")
        return x.mean((2, 3))


def test_nothing_is_left_behind_also_after_an_exception():
    model = Breaks().eval().requires_grad_(False)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    running = ran(model, guided(1), Gradient(1, "conv"))
    with running as batch:
        batch.gradient(1, "input", "guided")
        assert _get_current_function_mode_stack() == []
    broken = ran(model, guided(1), Gradient(1, "conv"))
    model.broken = True
    with pytest.raises(ValueError, match="broken"), broken:
        pass
    assert _get_current_function_mode_stack() == []
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    rules = ReluRules()
    with pytest.raises(ValueError, match="stop"), rules.under("guided"):
        raise ValueError("stop")
    assert rules.rule == "plain"


def test_threads_do_not_disturb_each_other():
    """Two models, one derived under a rule and one plainly, again and again at the same time."""
    start, found, wrong = threading.Barrier(2), {}, []

    def work(kind, rule):
        model = models[kind]
        start.wait(timeout=60)
        for _ in range(20):
            with ran(model, gradient(1, rule)) as batch:
                got = batch.gradient(1, "input", rule)
                if not torch.equal(found.setdefault(kind, got), got) or batch.relu_calls != calls[rule]:
                    wrong.append(kind)

    # Made here: the random numbers behind the weights are one stream for all threads.
    models = {kind: tiny.ALL[kind]() for kind in ("functional", "residual")}
    calls = {"guided": 5, "plain": 0}
    threads = [threading.Thread(target=work, args=way) for way in (("functional", "guided"), ("residual", "plain"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert wrong == []
    for kind, rule in (("functional", "guided"), ("residual", "plain")):
        with ran(models[kind], gradient(1, rule)) as batch:
            assert torch.equal(batch.gradient(1, "input", rule), found[kind])
