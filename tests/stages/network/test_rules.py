"""Backward passes of ReLUs under the rules, against derivatives written out by hand in numpy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convaudit.stages.network.rules import ReluRules

RULES = ("plain", "guided", "deconvnet")
INF = np.inf


def ignoring(function):
    """A call whose result is thrown away, as with in-place operations."""

    def call(value):
        function(value)
        return value

    return call


#: Every spelling: what is called, and where it saturates.
SPELLINGS = {
    "nn.ReLU": (nn.ReLU(), INF),
    "nn.ReLU in place": (nn.ReLU(inplace=True), INF),
    "nn.ReLU in place, ignored": (ignoring(nn.ReLU(inplace=True)), INF),
    "nn.ReLU6": (nn.ReLU6(), 6.0),
    "nn.ReLU6 in place": (nn.ReLU6(inplace=True), 6.0),
    "nn.Hardtanh": (nn.Hardtanh(0.0, 6.0), 6.0),
    "F.relu": (F.relu, INF),
    "F.relu by name": (lambda v: F.relu(input=v, inplace=False), INF),
    "F.relu in place, ignored": (ignoring(lambda v: F.relu(v, inplace=True)), INF),
    "F.relu_, ignored": (ignoring(F.relu_), INF),
    "F.relu6": (F.relu6, 6.0),
    "F.relu6 in place, ignored": (ignoring(lambda v: F.relu6(v, inplace=True)), 6.0),
    "F.hardtanh": (lambda v: F.hardtanh(v, 0, 6), 6.0),
    "F.hardtanh_, ignored": (ignoring(lambda v: F.hardtanh_(v, 0.0, 6.0)), 6.0),
    "torch.relu": (torch.relu, INF),
    "torch.relu_, ignored": (ignoring(torch.relu_), INF),
    "x.relu()": (lambda v: v.relu(), INF),
    "x.relu_(), ignored": (ignoring(lambda v: v.relu_()), INF),
    "x.clamp(min=0)": (lambda v: v.clamp(min=0), INF),
    "x.clamp(0, 6)": (lambda v: v.clamp(0, 6), 6.0),
    "x.clamp_(min=0), ignored": (ignoring(lambda v: v.clamp_(min=0)), INF),
    "x.clamp_(0, 6), ignored": (ignoring(lambda v: v.clamp_(0, 6)), 6.0),
    "x.clip(min=0.0)": (lambda v: v.clip(min=0.0), INF),
    "torch.clamp_min": (lambda v: torch.clamp_min(v, 0), INF),
    "x.clamp_min_(0), ignored": (ignoring(lambda v: v.clamp_min_(0)), INF),
    "nn.Threshold": (nn.Threshold(0, 0), INF),
    "nn.Threshold in place, ignored": (ignoring(nn.Threshold(0.0, 0.0, inplace=True)), INF),
    "F.threshold by name": (lambda v: F.threshold(v, threshold=0, value=0.0), INF),
    "torch.threshold": (lambda v: torch.threshold(v, 0, 0), INF),
    "torch.threshold_, ignored": (ignoring(lambda v: torch.threshold_(v, 0, 0)), INF),
    "threshold in place through a view, ignored": (
        ignoring(lambda v: F.threshold(v.view(v.shape[0], -1), 0, 0, inplace=True)),
        INF,
    ),
    "torch.maximum with 0": (lambda v: torch.maximum(v, torch.tensor(0.0)), INF),
    "torch.maximum of 0 by name": (lambda v: torch.maximum(input=v.new_zeros(1), other=v), INF),
    "torch.maximum with zeros": (lambda v: torch.maximum(v, torch.zeros_like(v)), INF),
    "torch.max of zeros": (lambda v: torch.max(torch.zeros_like(v), v), INF),
    "x.maximum(0)": (lambda v: v.maximum(v.new_zeros(())), INF),
    "x.max(zeros)": (lambda v: v.max(v.new_zeros(v.shape[1:])), INF),
    "through a view, ignored": (ignoring(lambda v: v.view(v.shape[0], -1).relu_()), INF),
}
every_spelling = pytest.mark.parametrize("spelling", sorted(SPELLINGS))


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


def convolve(x, kernel):
    """Valid cross-correlation, in loops."""
    n, channels, height, width = x.shape
    filters, _, a, b = kernel.shape
    y = np.zeros((n, filters, height - a + 1, width - b + 1))
    for i, f, r, c in np.ndindex(*y.shape):
        for k in range(channels):
            for u in range(a):
                for v in range(b):
                    y[i, f, r, c] += x[i, k, r + u, c + v] * kernel[f, k, u, v]
    return y


def convolve_back(gradient, kernel, shape):
    x = np.zeros(shape)
    for i, f, r, c in np.ndindex(*gradient.shape):
        x[i, :, r : r + kernel.shape[2], c : c + kernel.shape[3]] += gradient[i, f, r, c] * kernel[f]
    return x


TOP = np.array([1.0, -2.0, 0.5, -0.25, 3.0, 1.5, -1.0, 2.0, 0.75])


def weights():
    rng = np.random.default_rng(5)
    return [rng.normal(0, s, shape) for s, shape in ((1, (3, 2, 2, 3)), (0.7, (4, 3, 2, 2)), (0.2, (9, 4)))]


def replica(images, rule, upper):
    """Conv, ReLU, conv, ReLU, sum over positions, linear, ReLU, sum: forward and backward."""
    first, second, last = weights()
    z1 = convolve(images, first)
    a1 = np.clip(z1, 0, upper)
    z2 = convolve(a1, second)
    a2 = np.clip(z2, 0, upper)
    z3 = a2.sum((2, 3)) @ last.T
    gradient = closed(np.tile(TOP, (len(images), 1)), z3, upper, rule)
    gradient = np.broadcast_to((gradient @ last)[:, :, None, None], a2.shape)
    gradient = convolve_back(closed(gradient, z2, upper, rule), second, a1.shape)
    return convolve_back(closed(gradient, z1, upper, rule), first, images.shape)


def network(images, relu):
    first, second, last = (torch.from_numpy(weight) for weight in weights())
    x = relu(F.conv2d(images, first))
    x = relu(F.conv2d(x, second))
    x = relu(F.linear(x.sum((2, 3)), last))
    return x @ torch.from_numpy(TOP)


def derived(function, images, rules=RULES):
    """Derivatives under several rules through one graph."""
    images = images.clone().requires_grad_()
    caught = ReluRules()
    with caught:
        value = function(images)
    found = {}
    for rule in rules:
        with caught.under(rule):
            (found[rule],) = torch.autograd.grad(value.sum(), images, retain_graph=True)
    return found, caught.calls, value.detach()


def some_images():
    return np.random.default_rng(0).normal(0.3, 1.5, (3, 2, 5, 6))


@every_spelling
def test_each_spelling_against_the_replica(spelling):
    relu, upper = SPELLINGS[spelling]
    images = some_images()
    found, calls, value = derived(lambda x: network(x, relu), torch.from_numpy(images))
    assert calls == 3
    np.testing.assert_array_equal(value, network(torch.from_numpy(images), relu))
    for rule in RULES:
        want = replica(images, rule, upper)
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(found[rule], want, rtol=1e-10, atol=1e-10)
    assert not np.allclose(found["plain"], found["guided"])
    assert not np.allclose(found["deconvnet"], found["guided"])


def test_a_rule_is_not_linear_in_the_target():
    found, _, _ = derived(lambda x: -network(x, F.relu), torch.from_numpy(some_images()))
    straight, _, _ = derived(lambda x: network(x, F.relu), torch.from_numpy(some_images()))
    torch.testing.assert_close(found["plain"], -straight["plain"])
    assert not torch.allclose(found["guided"], -straight["guided"])


@pytest.mark.parametrize("inplace", [False, True])
def test_a_second_consumer_of_a_relus_input_keeps_its_gradient(inplace):
    def function(z):
        z = z * 1
        apart = z.clone() if inplace else z
        return 2 * F.relu(apart, inplace=inplace) - 3 * z

    found, calls, _ = derived(function, torch.tensor([[1.0, -2.0, 3.0]]))
    assert calls == 1
    assert found["plain"].tolist() == [[-1, -3, -1]]
    assert found["guided"].tolist() == [[-1, -3, -1]]
    assert found["deconvnet"].tolist() == [[-1, -1, -1]]


def test_in_place_on_a_part_of_a_tensor():
    def function(x):
        x = x * 1
        torch.relu_(x[:, 1:])
        x[:, :1].clamp_(0, 6)
        return x @ torch.tensor([1.0, 2.0, -3.0, 4.0])

    images = torch.tensor([[7.0, 1.0, 2.0, -3.0], [3.0, -1.0, -2.0, 5.0]])
    found, calls, value = derived(function, images)
    assert calls == 2
    assert value.tolist() == [6 + 2 - 6, 3 + 20]
    assert found["plain"].tolist() == [[0, 2, -3, 0], [1, 0, 0, 4]]
    assert found["guided"].tolist() == [[0, 2, 0, 0], [1, 0, 0, 4]]
    assert found["deconvnet"].tolist() == [[1, 2, 0, 4], [1, 2, 0, 4]]


def test_in_place_results_are_written_where_relu_writes_them():
    with ReluRules() as rules:
        for needs_grad in (False, True):
            start = torch.tensor([[-1.0, 2.0, 9.0]], requires_grad=needs_grad)
            for call, want in ((torch.relu_, [0, 2, 9]), (lambda v: F.relu6(v, inplace=True), [0, 2, 6])):
                value = start * 1
                other = value.view(3)
                assert call(value) is value
                assert value.tolist() == [want]
                assert other.tolist() == want
        assert rules.calls == 4


AT_THE_LIMITS = torch.tensor([[-1.0, -0.0, 0.0, 1e-30, 3.0, 6.0, 6.5, float("nan"), float("inf"), -float("inf")]])


@every_spelling
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_plain_is_the_derivative_to_the_bit(spelling, dtype):
    relu, _ = SPELLINGS[spelling]
    weight = torch.randn(1, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = {}
    for rode in (False, True):
        images = AT_THE_LIMITS.to(dtype).requires_grad_()
        rules = ReluRules()
        if rode:
            with rules:
                value = relu(images * 1)
            with rules.under("guided"):
                torch.autograd.grad(value, images, weight, retain_graph=True)
        else:
            value = relu(images * 1)
        (gradient,) = torch.autograd.grad(value, images, weight)
        found[rode] = value.detach(), gradient
    kind = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}[dtype]
    for plain, rode in zip(found[False], found[True], strict=True):
        assert torch.equal(plain.view(kind), rode.view(kind))


def test_at_the_limits_a_rule_is_closed():
    for spelling in ("F.relu6", "x.clamp(0, 6)"):
        relu, _ = SPELLINGS[spelling]
        found, _, _ = derived(lambda x, relu=relu: relu(x), torch.tensor([[-1.0, 0.0, 3.0, 6.0, 7.0]]))
        assert found["guided"].tolist() == [[0, 0, 1, 0, 0]]
        assert found["deconvnet"].tolist() == [[1, 1, 1, 1, 1]]


def test_what_is_no_relu_is_let_through():
    def function(x):
        x = F.leaky_relu(x).clamp(-1, 1).clamp(max=5).clamp(min=0.5)
        return F.hardtanh(x) + torch.clamp(x, min=torch.zeros(()))

    found, calls, _ = derived(function, torch.from_numpy(some_images()))
    assert calls == 0
    assert torch.equal(found["plain"], found["guided"])


def test_a_threshold_or_maximum_that_may_be_something_else_is_let_through():
    learned = torch.zeros((), requires_grad=True)

    def function(x):
        x = F.threshold(F.threshold(F.threshold(x, 0, 1), 0.5, 0), -9, 0)
        x = torch.maximum(x, torch.full((), 1e-3)).maximum(learned).maximum(F.dropout(0 * x, 0.0))
        wide = torch.maximum(x, torch.zeros(2, *x.shape))  # larger than the activation
        largest = torch.max(x, 1).values + x.max(dim=2).values.sum() + x.amax()
        return wide.sum() + largest.sum() + torch.fmax(x, torch.zeros(())).sum()

    found, calls, _ = derived(function, torch.from_numpy(some_images()))
    assert calls == 0
    assert torch.equal(found["plain"], found["guided"])


def test_without_a_graph_only_one_zero_is_told_from_an_activation():
    with ReluRules() as rules, torch.no_grad():
        value = torch.ones(2, 3, 4)
        torch.maximum(value, torch.zeros_like(value))
        assert rules.calls == 0
        torch.maximum(value, torch.zeros(1))
    assert rules.calls == 1


def test_a_maximum_keeps_the_wider_type_it_may_give():
    value = torch.ones(2, 3, requires_grad=True)
    with ReluRules() as rules:
        assert torch.maximum(value, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
        assert torch.maximum(value, torch.zeros((), dtype=torch.float64)).dtype == torch.float32
    assert rules.calls == 1
