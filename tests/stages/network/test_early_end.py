"""Forward passes that end at the last layer that is wanted, against whole ones."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.contract import Ablate, Ask, Gradient, Identity, Randomise, Result, SoleLeaf, Units
from convaudit.stages.errors import StageError
from convaudit.stages.network.batch import opened
from convaudit.stages.network.sweep import run_tasks

from ...tiny_models import ALL, conv_net, functional_net, residual_net, tiny_blocks, tiny_images, tiny_subject

RULES = ("plain", "guided", "deconvnet")


def world(model, n=4):
    (block,) = tiny_blocks(tiny_images(model, n), batch=n)
    return tiny_subject(model, n), block


def units(layer, n=4):
    places = [tuple((3 * at + axis) % length for axis, length in enumerate(layer.shape)) for at in range(n)]
    return Units(layer.name, tuple(places))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def counted(model, name):
    """Note every call of a module, outside of what the network looks at."""
    module, calls = model.get_submodule(name), []
    forward = module.forward
    module.forward = lambda *args: calls.append(1) or forward(*args)
    return calls


@pytest.mark.parametrize(
    "alter", [lambda _: Identity(), lambda name: Randomise((name,), 3), lambda name: Ablate(name, (1,))]
)
@pytest.mark.parametrize("name", sorted(ALL))
def test_what_is_wanted_is_the_same_to_the_bit(name, alter):
    model = ALL[name]()
    subject, block = world(model)
    variant = alter([layer.name for layer in subject.layers if layer.kind == "conv" and "#" not in layer.name][-1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for layer in subject.layers:
        if layer.kind not in ("conv", "relu", "pool"):
            continue
        target = units(layer)
        ask = Ask(keep=(layer.name,), gradients=tuple(Gradient(target, "input", rule) for rule in RULES))
        with opened(model, block, subject, ask, variant) as whole:
            part = whole.again(whole.images, replace(ask, logits=False))
            assert part.activation(layer.name).equal(whole.activation(layer.name))
            for rule in RULES:
                got = part.gradient(target, "input", rule)
                assert got.equal(whole.gradient(target, "input", rule)), (layer.name, rule)
            assert 0 < part.relu_calls <= whole.relu_calls
            assert hooks(model) == 0
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert torch.overrides._get_current_function_mode() is None


def test_nothing_behind_the_last_layer_is_computed():
    model = conv_net()
    subject, block = world(model)
    calls = {name: counted(model, name) for name in ("conv1", "conv2", "fc")}
    with opened(model, block, subject, Ask(keep=("relu1", "conv1"), logits=False)) as batch:
        assert batch.activation("relu1").ge(0).all()
        assert {name: len(found) for name, found in calls.items()} == {"conv1": 1, "conv2": 0, "fc": 0}
        assert batch.again(batch.images, Ask(keep=("conv2.input",), logits=False)).activation("conv2.input").numel()
        assert {name: len(found) for name, found in calls.items()} == {"conv1": 2, "conv2": 0, "fc": 0}
        assert batch.again(batch.images, Ask()).logits.equal(batch.call(batch.images))
    with opened(model, block, subject, Ask(logits=False)) as batch:
        assert len(batch.images) == 4
    assert len(calls["conv1"]) == 4


def test_logits_that_nobody_asked_for_are_refused():
    model = conv_net()
    subject, block = world(model)
    with opened(model, block, subject, Ask(keep=("fc",), logits=False)) as batch:
        for look in (lambda: batch.logits, lambda: batch.target_class("predicted")):
            with pytest.raises(StageError, match=r"not asked for.*Ask\(logits=True\)"):
                look()
        assert batch.only(np.array([2, 0])).activation("fc").equal(batch.activation("fc")[[2, 0]])
    with pytest.raises(StageError, match="without logits units can be derived, got 'predicted'"):
        Ask(gradients=(Gradient("predicted", "input"),), logits=False)


def test_a_rule_needs_a_relu_somewhere_and_finds_it_behind_the_unit_too():
    class Smooth(nn.Module):
        input_shape = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.conv2(F.gelu(self.conv1(x))).mean((2, 3)))

    smooth = Smooth().eval().requires_grad_(False)
    for model, first in ((smooth, "conv1"), (conv_net(), "conv1")):
        subject, block = world(model)
        ask = Ask(gradients=(Gradient(units(subject.layer(first)), "input", "guided"),), logits=False)
        if model is smooth:
            with pytest.raises(StageError, match="no call of a ReLU"), opened(model, block, subject, ask):
                pass
        else:
            with opened(model, block, subject, ask) as batch:
                assert batch.relu_calls > 0
                with pytest.raises(StageError, match="not asked for"):
                    _ = batch.logits


@pytest.mark.parametrize("build", [functional_net, residual_net])
def test_a_layer_that_is_called_twice_has_to_be_named_with_its_call(build):
    model = build()
    subject, block = world(model)
    twice = sorted({layer.name.partition("#")[0] for layer in subject.layers if "#" in layer.name})
    assert twice
    for name in twice:
        for ask in (
            Ask(keep=(name,), logits=False),
            Ask(gradients=(Gradient(Units(name, ((0, 0, 0),) * 4), "input"),), logits=False),
        ):
            with opened(model, block, subject, Ask()) as batch, pytest.raises(StageError, match="with the call"):
                batch.again(batch.images, ask)
            with (
                pytest.raises(StageError, match="with the call where there are several"),
                opened(model, block, subject, ask),
            ):
                pass
        with opened(model, block, subject, Ask(keep=(f"{name}#0", f"{name}#1"), logits=False)) as batch:
            assert not batch.activation(f"{name}#0").equal(batch.activation(f"{name}#1"))


def test_a_model_that_catches_errors_does_not_catch_the_end():
    class Patient(nn.Module):
        input_shape = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            try:
                x = self.conv1(x)
            except Exception:
                x = torch.zeros(len(x), 4, 6, 6)
            return self.fc(self.conv2(x).mean((2, 3)))

    model = Patient().eval().requires_grad_(False)
    subject, block = world(model)
    calls = counted(model, "conv2")
    with opened(model, block, subject, Ask(keep=("conv1",), logits=False)):
        assert not calls


@dataclass(frozen=True)
class Counting(SoleLeaf):
    """Looks at images, and at logits where it is told to."""

    wants: bool = False
    name: ClassVar[str] = "counting"
    sweeps: ClassVar[bool] = True

    def asks(self, subject):
        return Ask(logits=self.wants)

    def writes(self, subject):
        return ()

    def process(self, batch, task, subject):
        mean = batch.logits.mean() if self.wants else batch.images.mean()
        return Result(partial={"mean": mean.numpy()})

    def combine(self, first, second):
        return first


@pytest.mark.parametrize(("wants", "forwards"), [((False,), 0), ((True,), 2), ((False, True), 2)])
def test_the_sweep_runs_the_network_where_somebody_wants_to_know(wants, forwards):
    model = conv_net()
    subject = tiny_subject(model, 4, shard=4, batch=2)
    calls = counted(model, "fc")
    jobs = [(leaf, leaf.tasks(subject, None)[0]) for leaf in map(Counting, wants)]
    blocks = tiny_blocks(tiny_images(model, 4), batch=2)
    outcomes = run_tasks(model, jobs, blocks, subject, device="cpu", channels_last=False)
    assert [outcome.error for outcome in outcomes] == [None] * len(wants)
    assert len(calls) == forwards
