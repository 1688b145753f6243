"""Values and gradients that are looked at, against a computation by hand; and nothing left on the model."""

import hashlib

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.contract import Ablate, Ask, Gradient, Perturb, Randomise
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.layers import trace

INPUT = "input"


def by_hand(kind, model, x):
    """Each layer's value in the graph, written out without hooks and without in-place operations."""
    seen = {}

    def keep(name, value):
        seen[name] = value
        return value

    if kind == "conv":
        x = keep("bn1", model.bn1(keep("conv1", model.conv1(x))))
        x = keep("pool", model.pool(keep("relu1", torch.relu(x))))
        x = keep("bn2", model.bn2(keep("conv2", model.conv2(x))))
        x = keep("gap", model.gap(keep("relu2", torch.relu(x))))
        return seen, keep("fc", model.fc(keep("fc.input", x.flatten(1))))
    if kind == "functional":
        x = keep("stem.functional_relu", torch.relu(keep("stem.conv", model.stem.conv(x))))
        x = keep("relu#0", torch.relu(keep("conv2", model.conv2(keep("stem", x * 1)))))
        x = keep("relu#1", torch.relu(keep("conv3", model.conv3(x))))
        x = keep("functional_relu#0", torch.relu(keep("conv4", model.conv4(x))))
        x = keep("functional_relu#1", keep("fc1", model.fc1(x.mean((2, 3)))).clamp(min=0))
        return seen, keep("fc2", model.fc2(keep("fc2.input", x * 1)))
    if kind == "residual":
        x = keep("functional_relu", F.relu6(keep("conv", model.conv(x))))
        for name in ("block1", "block2"):
            block, identity = getattr(model, name), x
            x = keep(f"{name}.bn1", block.bn1(keep(f"{name}.conv1", block.conv1(x))))
            x = keep(f"{name}.conv2", block.conv2(keep(f"{name}.relu#0", F.relu6(x))))
            x = keep(name, keep(f"{name}.relu#1", F.relu6(x + identity)) * 1)
        return seen, keep("fc", model.fc(keep("fc.input", keep("drop", x.mean((2, 3))) * 1)))
    x = keep("bn1", model.bn1(keep("conv1", model.conv1(x))))
    x = keep("functional_relu#0", torch.relu(x))
    x = keep("functional_relu#1", torch.relu(keep("conv2", model.conv2(F.max_pool1d(x, 2)))))
    return seen, keep("fc", model.fc(keep("fc.input", x.mean(2))))


def setting(kind, n=4):
    model = tiny.ALL[kind]().double()
    subject = tiny.tiny_subject(model, n)
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model, n), n)))
    x = torch.from_numpy(block.images).double().requires_grad_()
    values, logits = by_hand(kind, model, x)
    return model, subject, block, x, values, logits


def hooks(model):
    return sum(
        len(getattr(module, store))
        for module in model.modules()
        for store in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def fingerprint(model):
    state = hashlib.sha256()
    for name, value in model.state_dict().items():
        state.update(name.encode() + value.numpy().tobytes())
    flags = [(m.training, sorted(vars(m))) for m in model.modules()]
    grads = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return state.hexdigest(), flags, grads, hooks(model)


@pytest.mark.parametrize("kind", tiny.ALL)
@pytest.mark.parametrize("how", ["observe", "keep", "gradients"])
def test_every_value_as_it_was_computed(kind, how):
    model, subject, block, _, values, logits = setting(kind)
    names = tuple(layer.name for layer in subject.layers)
    assert set(names) == set(values)
    wanted = tuple(Gradient("predicted", name) for name in names) if how == "gradients" else names
    with opened(model, block, subject, Ask(**{how: wanted}), observe=lambda _layer, a, _valid: a.clone()) as batch:
        for name in names:
            value = batch.observed("", name) if how == "observe" else batch.activation(name)
            torch.testing.assert_close(value, values[name].detach(), rtol=1e-12, atol=1e-12, msg=name)
    torch.testing.assert_close(batch.logits, logits.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", tiny.ALL)
@pytest.mark.parametrize("together", [True, False])
def test_every_gradient(kind, together):
    model, subject, block, x, values, logits = setting(kind)
    logits.gather(1, logits.argmax(1, keepdim=True)).sum().backward(inputs=[x, *values.values()], retain_graph=True)
    names = [layer.name for layer in subject.layers]
    groups = [[INPUT, *names]] if together else [[name] for name in (INPUT, *names)]
    for group in groups:
        ask = Ask(gradients=tuple(Gradient("predicted", name) for name in group))
        with opened(model, block, subject, ask) as batch:
            for name in group:
                expected = x.grad if name == INPUT else values[name].grad
                got = batch.gradient("predicted", name)
                torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_graph_starts_at_the_first_layer_that_is_asked(freeze):
    model, subject, block, *_ = setting("residual")
    model.requires_grad_(not freeze)
    ask = Ask(gradients=(Gradient("predicted", "block2"), Gradient("predicted", "fc.input")))
    with opened(model, block, subject, ask) as batch:
        assert batch._pass.kept["block2"].is_leaf == freeze
        assert not batch._pass.kept["fc.input"].is_leaf
        assert batch.gradient("predicted", "block2").abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def test_targets_share_one_pass_and_spare_what_has_none():
    model, subject, block, _, values, logits = setting("conv")
    block.valid[3] = False
    targets = ("predicted", "label", 2)
    ask = Ask(gradients=tuple(Gradient(target, name) for target in targets for name in (INPUT, "bn1")))
    with opened(model, block, subject, ask) as batch:
        for target in reversed(targets):
            classes = {"predicted": logits.argmax(1).numpy(), "label": subject.label, 2: np.full(4, 2)}[target]
            has = (np.arange(4) != 3) & (classes >= 0)
            assert (batch.target_class(target) == np.where(has, classes, -1)).all()
            gradient = batch.gradient(target, "bn1")
            for i in range(4):
                if has[i]:
                    (expected,) = torch.autograd.grad(logits[i, classes[i]], values["bn1"], retain_graph=True)
                    torch.testing.assert_close(gradient[i], expected[i], rtol=1e-10, atol=1e-12)
                else:
                    assert gradient[i].isnan().all()
                    assert batch.gradient(target, INPUT)[i].isnan().all()


def test_one_backward_per_target(monkeypatch):
    model, subject, block, *_ = setting("conv")
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(k["retain_graph"]) or grad(*a, **k))
    ask = Ask(
        gradients=tuple(Gradient(target, name) for target in ("predicted", 0) for name in (INPUT, "bn1", "conv2"))
    )
    with opened(model, block, subject, ask) as batch:
        for gradient in ask.gradients * 2:
            batch.gradient(gradient.target, gradient.wrt)
    assert calls == [True, False]


def test_gradients_do_not_depend_on_what_else_is_asked():
    model, subject, block, *_ = setting("residual")
    model.float()
    few = Ask(gradients=(Gradient("predicted", "block1"),))
    many = Ask(
        observe=("block1.conv2",),
        keep=("block1.relu#1",),
        gradients=(*(Gradient("predicted", n) for n in (INPUT, "block2.conv1", "block1")), Gradient("label", INPUT)),
    )
    with opened(model, block, subject, few) as a, opened(model, block, subject, many, observe=lambda *_: 0) as b:
        assert a.gradient("predicted", "block1").equal(b.gradient("predicted", "block1"))
        assert a.logits.equal(b.logits)
    with opened(model, block, subject, Ask()) as c:
        assert c.logits.equal(a.logits)
        assert c.logits.is_inference()


def test_what_was_not_asked_is_refused():
    model, subject, block, *_ = setting("conv")
    with opened(model, block, subject, Ask(keep=("conv1",), gradients=(Gradient(0, INPUT),))) as batch:
        with pytest.raises(StageError, match="activation of 'conv2' was not asked for"):
            batch.activation("conv2")
        with pytest.raises(StageError, match="gradient of 1 by 'input' was not asked for"):
            batch.gradient(1, INPUT)
        with pytest.raises(StageError, match="was not shown 'conv1'"):
            batch.observed("", "conv1")
        with pytest.raises(StageError, match="expected a class from 0 to 4, got 5"):
            batch.target_class(5)


def test_a_detached_part_is_named():
    class Cut(tiny.ConvNet):
        def forward(self, x):
            return self.fc(self.conv1(x).detach().mean((2, 3)).repeat(1, 2)[:, :8])

    model = Cut().eval().requires_grad_(False).double()
    subject = tiny.tiny_subject(model, 2)
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model, 2))))
    with (
        opened(model, block, subject, Ask(gradients=(Gradient(0, INPUT), Gradient(0, "fc.input")))) as batch,
        pytest.raises(StageError, match="gradient of 0 by 'input': there is no path"),
    ):
        batch.gradient(0, INPUT)


def test_layers_that_come_and_go_are_named():
    class Fickle(tiny.ConvNet):
        calls = 1

        def forward(self, x):
            x = self.conv1(x)
            for _ in range(self.calls):
                x = self.relu1(x)
            return x.mean((2, 3))

    model = Fickle().eval().double()
    subject = tiny.tiny_subject(model, 2)
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model, 2))))
    for calls, message in ((0, "'relu1' was not computed"), (2, "'relu1' was computed 2 times.*'relu1#0'")):
        model.calls = calls
        with pytest.raises(StageError, match=message), opened(model, block, subject, Ask(keep=("relu1",))):
            pass
        assert hooks(model) == 0


def test_unknown_layer_names_what_is_close():
    model, subject, block, *_ = setting("conv")
    with pytest.raises(StageError, match="did you mean 'conv1'"), opened(model, block, subject, Ask(keep=("conv_1",))):
        pass


VARIANTS = [
    Ablate("conv1", (0, 3)),
    Randomise(("conv2",), 3),
    Perturb(0.5, 3),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_left_as_it_was(variant, raises):
    model, subject, block, *_ = setting("conv")
    before, pixels, rng = fingerprint(model), block.images.copy(), torch.random.get_rng_state()
    names = tuple(layer.name for layer in subject.layers)
    ask = Ask(observe=names, keep=names, gradients=tuple(Gradient("predicted", n) for n in (INPUT, *names)))

    def observe(layer, activation, valid):
        if raises and layer.name == "relu2":
            raise RuntimeError("planted")

    try:
        with opened(model, block, subject, ask, variant, observe) as batch:
            batch.gradient("predicted", INPUT)
            assert hooks(model) == 0
        assert not raises
    except RuntimeError:
        assert raises
    assert fingerprint(model) == before
    assert (block.images == pixels).all()
    assert torch.random.get_rng_state().equal(rng)


def test_a_model_that_writes_into_its_input():
    class Greedy(tiny.ConvNet):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model = Greedy().eval().requires_grad_(False).double()
    subject = tiny.tiny_subject(model, 2)
    block = next(iter(tiny.tiny_blocks(tiny.tiny_images(model, 2))))
    before = block.images.copy()
    with opened(model, block, subject, Ask(gradients=(Gradient(0, INPUT),))) as batch:
        assert batch.gradient(0, INPUT).abs().sum() > 0
        assert (batch.images.detach().numpy() == before).all()
    model.float()
    with opened(model, block, subject, Ask()) as batch:
        assert (batch.images.numpy() == before).all()
    assert (block.images == before).all()


def test_observers_calls_are_no_part_of_the_model():
    model, subject, block, _, values, _ = setting("functional")
    names = tuple(layer.name for layer in subject.layers)

    def observe(layer, activation, valid):
        return F.relu(activation.clamp(min=0))

    with opened(model, block, subject, Ask(observe=names, keep=names), observe=observe) as batch:
        for name in names:
            torch.testing.assert_close(batch.activation(name), values[name].detach(), msg=name)


def test_an_error_that_the_model_catches_does_not_shift_names():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError("planted")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bad, self.stem = nn.Conv2d(3, 3, 3), Fails(), tiny.Stem()

        def forward(self, x):
            try:
                x = self.bad(x)
            except ValueError:
                x = self.stem(self.conv(x))
            return F.relu(x).mean((2, 3))

    found = [layer.name for layer in trace(Net().eval(), torch.zeros(2, *tiny.SHAPE_2D)) if layer.kind == "relu"]
    assert found == ["stem.functional_relu", "functional_relu"]
