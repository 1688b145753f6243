"""What holds for every attribution method in conf/: where it applies, several targets, and no word between methods."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.attributions.stage import AttributionLeaf
from convaudit.stages.contract import Task
from convaudit.stages.errors import ConfigError
from convaudit.stages.network.sweep import run_tasks

from ..tiny_models import conv_net, functional_net, residual_net, signal_net, tiny_blocks, tiny_images, tiny_subject
from .test_leaves import LEAVES

N = 5


class Flat(nn.Module):
    """A linear layer on all positions of a map, without pooling."""

    input_shape = (3, 12, 9)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(80, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).flatten(1))


class Smooth(nn.Module):
    """No ReLU anywhere."""

    input_shape = (3, 12, 9)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.act = nn.SiLU()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


class SmoothSignal(nn.Module):
    """One-dimensional, and no ReLU but a smooth function."""

    input_shape = (2, 24)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 5)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(F.gelu(self.conv(x)).mean(2))


def _made(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind().eval().requires_grad_(False)


NETS = {
    "images": conv_net,
    "residual": residual_net,
    "signals": signal_net,
    "functional": lambda: functional_net(4),  # with others the last ReLU is closed for some images
    "flat": lambda: _made(Flat),
    "smooth": lambda: _made(Smooth),
    "smooth signals": lambda: _made(SmoothSignal),
}
NO_RELU = r"no ReLU"
#: Method and network that do not go together, and what is said; everything else has to work.
DOES_NOT_APPLY = {
    ("cam", "flat"): r"global average pooling",
    ("cam", "functional"): r"global average pooling",
    ("guided_backprop", "smooth"): NO_RELU,
    ("deconvnet", "smooth"): NO_RELU,
    ("guided_grad_cam", "smooth"): NO_RELU,
    ("guided_backprop", "smooth signals"): NO_RELU,
    ("deconvnet", "smooth signals"): NO_RELU,
    ("guided_grad_cam", "smooth signals"): NO_RELU,
}
#: What only the first images can show, since the step in question is no layer.
FOUND_ON_THE_WAY = {("cam", "smooth signals"): r"expected the input of fc to be the mean of conv.*use grad_cam"}
ALL_LEAVES = [param.values[0] for param in LEAVES]
METHODS = [leaf for leaf in ALL_LEAVES if isinstance(leaf, AttributionLeaf)]
every_method = pytest.mark.parametrize("leaf", METHODS, ids=lambda leaf: leaf.key)
every_net = pytest.mark.parametrize("net", list(NETS))
some_nets = pytest.mark.parametrize("net", ["images", "residual", "signals"])


def _world(net, double=True):
    model = NETS[net]()
    model = model.double() if double else model
    subject = replace(tiny_subject(model, N, shard=N, batch=3), label=np.arange(N) % 5)
    return model, subject, tiny_images(model, N)


def _run(leaves, model, subject, images, channels_last=False):
    jobs = [(leaf, Task(leaf.name, range(N))) for leaf in leaves]
    outcomes = run_tasks(model, jobs, tiny_blocks(images, batch=3), subject, device="cpu", channels_last=channels_last)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return {outcome.leaf: outcome.rows for outcome in outcomes}


def _applies(leaf, net):
    return (leaf.key, net) not in DOES_NOT_APPLY


def _maps(leaf, subject):
    """Arrays with one map for each target."""
    return [
        array.path for array in leaf.writes(subject) if array.dims[:2] == ("image", "target") and len(array.dims) > 2
    ]


def test_the_table_names_what_there_is():
    assert {net for _, net in DOES_NOT_APPLY} <= set(NETS)
    assert {method for method, _ in DOES_NOT_APPLY} <= {leaf.key for leaf in METHODS}


@every_net
@every_method
def test_it_works_or_is_refused_before_the_sweep(leaf, net):
    model, subject, images = _world(net)
    if not _applies(leaf, net):
        with pytest.raises(ConfigError, match=DOES_NOT_APPLY[leaf.key, net]):
            leaf.writes(subject), leaf.asks(subject)
        return
    if (leaf.key, net) in FOUND_ON_THE_WAY:
        with pytest.raises(AssertionError, match=FOUND_ON_THE_WAY[leaf.key, net]):
            _run([leaf], model, subject, images)
        return
    before = copy.deepcopy(model.state_dict())
    rows = _run([leaf], model, subject, images)[leaf.name]
    for array in leaf.writes(subject):
        values = rows[array.path].astype(float)
        assert np.nan_to_num(values).any(), f"{array.path} says nothing"
        if array.path.endswith("heatmap"):
            assert np.isfinite(values).all(), array.path
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("format", ["float64", "float32 channels last"])
@some_nets
def test_nobody_notices_who_else_takes_part(net, format):
    model, subject, images = _world(net, double=format == "float64")
    last = format.endswith("last")
    leaves = [leaf for leaf in ALL_LEAVES if not isinstance(leaf, AttributionLeaf) or _applies(leaf, net)]
    together = _run(leaves, model, subject, images, last)
    turned = _run(leaves[::-1], model, subject, images, last)
    for leaf in leaves:
        alone = _run([leaf], model, subject, images, last)[leaf.name]
        for path, rows in alone.items():
            where = f"{leaf.name}/{path}"
            assert rows.tobytes() == together[leaf.name][path].tobytes(), f"{where}: alone and with all others"
            assert rows.tobytes() == turned[leaf.name][path].tobytes(), f"{where}: in another order"


@some_nets
@pytest.mark.parametrize("other", ["guided_backprop", "deconvnet", "guided_grad_cam"])
def test_a_rule_of_one_does_not_touch_the_gradient_of_another(other, net):
    model, subject, images = _world(net, double=False)
    leaves = {leaf.key: leaf for leaf in METHODS}
    plain = [leaves["saliency"], leaves["grad_cam"], leaves["gradient_input"]]
    alone = _run(plain, model, subject, images)
    beside = _run([leaves[other], *plain], model, subject, images)
    for leaf in plain:
        for path, rows in alone[leaf.name].items():
            assert rows.tobytes() == beside[leaf.name][path].tobytes(), f"{leaf.name}/{path}"


def _with(leaf, **settings):
    return replace(leaf, method=replace(leaf.method, **settings))


def _close(first, second, path):
    first, second = np.asarray(first, float), np.asarray(second, float)
    slack = 2e-3 * np.abs(second[np.isfinite(second)]).max(initial=1e-30)
    np.testing.assert_allclose(first, second, rtol=0, atol=slack, err_msg=path)


@some_nets
@every_method
def test_several_targets_are_those_asked_one_by_one(leaf, net):
    model, subject, images = _world(net)
    single = _run([leaf], model, subject, images)[leaf.name]
    order = np.argsort(-model(torch.from_numpy(images).double()).numpy(), axis=1, kind="stable")
    for target, classes in {"top:2": order[:, :2], "all": np.tile(np.arange(5), (N, 1))}.items():
        several = _with(leaf, target=target)
        rows = _run([several], model, subject, images)[leaf.name]
        np.testing.assert_array_equal(rows["target"], classes)
        slot = np.argmax(classes == order[:, :1], axis=1)
        for path in _maps(several, subject):
            assert rows[path].shape[:2] == classes.shape, path
            _close(rows[path][np.arange(N), slot], single[path][:, 0], f"{target} {path}")


@some_nets
@every_method
def test_wrong_images_alone_are_what_they_are_among_all(leaf, net):
    model, subject, images = _world(net)
    predicted = model(torch.from_numpy(images).double()).numpy().argmax(1)
    subject = replace(subject, label=np.where(np.arange(N) % 2, predicted, (predicted + 1) % 5))
    wrong = np.flatnonzero(predicted != subject.label)
    everything = _run([leaf], model, subject, images)[leaf.name]
    rows = _run([_with(leaf, images="wrong")], model, subject, images)[leaf.name]
    right = np.setdiff1d(np.arange(N), wrong)
    for array in leaf.writes(subject):
        blank = np.full_like(rows[array.path][right], array.spec.fill)
        np.testing.assert_array_equal(rows[array.path][right], blank, array.path)
        if array.path in _maps(leaf, subject) or array.path == "target":
            _close(rows[array.path][wrong], everything[array.path][wrong], array.path)


@every_method
def test_a_class_that_is_not_there_is_refused(leaf):
    _, subject, _ = _world("images")
    for target, message in {5: "from 0 to 4", "antt": "did you mean 'ant'", "top:9": "top:1 to top:5"}.items():
        with pytest.raises(ConfigError, match=message):
            _with(leaf, target=target).writes(subject)
