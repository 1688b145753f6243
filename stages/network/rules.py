"""The backward pass of a ReLU under another rule, for one graph that is derived several times.

No module is touched: a function mode replaces each call of a ReLU, however it is spelled, by a function whose backward
looks up the rule in force. Each call is its own node of the graph, so that an input with a second consumer keeps the
gradient that comes from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..contract import ReluRule
from .functional import ReluCall, other_nonlinearity, recognise


class ReluRules(TorchFunctionMode):
    """Catches every ReLU of the forward passes inside the context.

    ``"plain"`` is the derivative of the function, to the bit. ``"guided"`` (Springenberg et al. 2015, section 3.4)
    also stops negative gradients; ``"deconvnet"`` (Zeiler and Fergus 2014, section 2.1) stops negative gradients only.
    Under guided, a ReLU with an upper limit is also closed where it is saturated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rule: ReluRule = "plain"
        #: How many calls were caught, whether or not they are part of a graph.
        self.calls = 0
        #: How many calls of other nonlinearities passed, which no rule speaks of, by function.
        self.others: Counter[str] = Counter()
        self.resting = False

    @contextmanager
    def under(self, rule: ReluRule) -> Iterator[None]:
        """Derive under a rule."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    def unseen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, to be called during a forward pass without being taken for a part of the model."""

        def call(*args: Any) -> Any:
            before, self.resting = self.resting, True
            try:
                return function(*args)
            finally:
                self.resting = before

        return call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call; one that is a ReLU gets the backward pass of the rules."""
        del types
        kwargs = kwargs or {}
        relu = None if self.resting else recognise(func, args, kwargs, in_graph=torch.is_grad_enabled())
        if relu is None:
            other = None if self.resting else other_nonlinearity(func)
            if other is not None:
                self.others[other] += 1
            return func(*args, **kwargs)
        self.calls += 1
        value = relu.activation(args, kwargs)
        if not (torch.is_grad_enabled() and value.requires_grad):
            return func(*args, **kwargs)
        if relu.inplace and value._is_view():
            # A function of one's own must not write into a view; what it gives is written there instead.
            return value.copy_(_Relu.apply(value, replace(relu, inplace=False), self))
        return _Relu.apply(value, relu, self)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, relu: ReluCall, rules: ReluRules) -> Tensor:
        inside = _inside(value, relu.upper) if relu.function == "clamp" else None
        if relu.function == "maximum":
            inside = value == 0
        output = _rectified(value, relu)
        if relu.inplace:
            ctx.mark_dirty(value)
        ctx.save_for_backward(output, inside)
        ctx.relu, ctx.rules = relu, rules
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        output, inside = ctx.saved_tensors
        rule = ctx.rules.rule
        if rule != "plain":
            gradient = gradient.relu()
        if rule == "deconvnet":
            return gradient, None, None
        if rule == "plain" and ctx.relu.function == "maximum":  # of two equal values each gets half
            open_ = torch.ops.aten.threshold_backward(gradient, output, 0)
            return torch.where(inside, gradient / 2, open_), None, None
        if rule == "plain" and inside is not None:
            return torch.where(inside, gradient, torch.zeros_like(gradient)), None, None
        if ctx.relu.upper is None:
            return torch.ops.aten.threshold_backward(gradient, output, 0), None, None
        return torch.ops.aten.hardtanh_backward(gradient, output, 0.0, ctx.relu.upper), None, None


def _rectified(value: Tensor, relu: ReluCall) -> Tensor:
    """What the call gives, to the sign of a zero."""
    if relu.function == "maximum":
        zero = value.new_zeros(())
        return torch.maximum(zero, value) if relu.zero_first else torch.maximum(value, zero)
    if relu.function == "threshold":
        return torch.threshold_(value, 0, 0) if relu.inplace else torch.threshold(value, 0, 0)
    if relu.upper is None:
        return value.relu_() if relu.inplace else value.relu()
    return value.clamp_(0.0, relu.upper) if relu.inplace else value.clamp(0.0, relu.upper)


def _inside(value: Tensor, upper: float | None) -> Tensor:
    """Where the derivative of clamp is 1; unlike that of the others it is 0 for NaN."""
    above = torch.ge if _CLAMP_OPEN_AT_LIMITS else torch.gt
    inside = above(value, 0)
    return inside if upper is None else inside & above(-value, -upper)


def _clamp_open_at_limits() -> bool:
    with torch.inference_mode(False), torch.enable_grad():
        limit = torch.zeros(1, requires_grad=True)
        (gradient,) = torch.autograd.grad(limit.clamp(min=0), limit)
    return bool(gradient.item())


# Releases of PyTorch differ in this, and "plain" is the derivative that the installed one gives.
_CLAMP_OPEN_AT_LIMITS = _clamp_open_at_limits()
