"""The spellings of ReLU as a function, recognised as a `TorchFunctionMode` sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ReluCall:
    """One call of a function that is a ReLU.

    Parameters
    ----------
    function
        Its name: ``"relu"``, ``"relu6"``, ``"hardtanh"``, ``"clamp"``, ``"threshold"``, ``"maximum"``.
    upper
        Where it saturates; None where it does not.
    inplace
        Whether it writes into its input.
    zero_first
        Whether the activation is the second of its two tensors, behind the zeros.
    """

    function: str
    upper: float | None
    inplace: bool
    zero_first: bool = False

    def activation(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The tensor that the call rectifies, among its arguments."""
        place, name = (1, "other") if self.zero_first else (0, "input")
        return args[place] if len(args) > place else kwargs[name]


@dataclass(frozen=True)
class _Spelling:
    function: str
    parameters: tuple[str, ...]
    inplace: bool
    lower: tuple[str | None, float | None]
    upper: tuple[str | None, float | None]


def _spellings() -> dict[Callable[..., Any], _Spelling]:
    def relu(inplace: bool) -> _Spelling:
        return _Spelling("relu", ("input", "inplace"), inplace, (None, 0.0), (None, None))

    def clamp(inplace: bool) -> _Spelling:
        return _Spelling("clamp", ("input", "min", "max"), inplace, ("min", None), ("max", None))

    def clamp_min(inplace: bool) -> _Spelling:
        return _Spelling("clamp", ("input", "min"), inplace, ("min", None), (None, None))

    def threshold(inplace: bool) -> _Spelling:
        return _Spelling("threshold", ("input", "threshold", "value", "inplace"), inplace, ("threshold", None), nowhere)

    nowhere = (None, None)
    hard_names = ("input", "min_val", "max_val", "inplace")
    table: dict[Callable[..., Any], _Spelling] = {
        F.relu6: _Spelling("relu6", ("input", "inplace"), False, (None, 0.0), (None, 6.0)),
        F.hardtanh: _Spelling("hardtanh", hard_names, False, ("min_val", -1.0), ("max_val", 1.0)),
        F.hardtanh_: _Spelling("hardtanh", hard_names, True, ("min_val", -1.0), ("max_val", 1.0)),
    }
    table |= dict.fromkeys((F.relu, torch.relu, Tensor.relu), relu(False))
    table |= dict.fromkeys((F.relu_, torch.relu_, Tensor.relu_), relu(True))
    table |= dict.fromkeys((torch.clamp, torch.clip, Tensor.clamp, Tensor.clip), clamp(False))
    table |= dict.fromkeys((torch.clamp_, torch.clip_, Tensor.clamp_, Tensor.clip_), clamp(True))
    table |= dict.fromkeys((torch.clamp_min, Tensor.clamp_min), clamp_min(False))
    table |= dict.fromkeys((torch.clamp_min_, Tensor.clamp_min_), clamp_min(True))
    table |= dict.fromkeys((F.threshold, torch.threshold), threshold(False))
    return table | {torch.threshold_: threshold(True)}


_SPELLINGS = _spellings()
#: Functions that, given two tensors, take the larger of both. For NaN fmax does not do what a ReLU does.
_MAXIMA = (torch.maximum, Tensor.maximum, torch.max, Tensor.max)


def _others() -> dict[Callable[..., Any], str]:
    table: dict[Callable[..., Any], str] = {
        F.silu: "silu",
        F.gelu: "gelu",
        F.hardswish: "hardswish",
        F.hardsigmoid: "hardsigmoid",
        F.mish: "mish",
        F.softplus: "softplus",
        F.softsign: "softsign",
        F.logsigmoid: "logsigmoid",
        F.tanhshrink: "tanhshrink",
        F.hardshrink: "hardshrink",
        F.softshrink: "softshrink",
        F.glu: "glu",
    }
    table |= dict.fromkeys((F.leaky_relu, F.leaky_relu_), "leaky_relu")
    table |= dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), "prelu")
    table |= dict.fromkeys((F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_), "rrelu")
    table |= dict.fromkeys((F.elu, F.elu_), "elu")
    table |= dict.fromkeys((F.selu, F.selu_, torch.selu, torch.selu_), "selu")
    table |= dict.fromkeys((F.celu, F.celu_, torch.celu, torch.celu_), "celu")
    table |= dict.fromkeys((F.threshold, torch.threshold, torch.threshold_), "threshold")
    sigmoids = (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit)
    table |= dict.fromkeys(sigmoids, "sigmoid")
    tanhs = (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_)
    return table | dict.fromkeys(tanhs, "tanh")


_OTHERS = _others()


def other_nonlinearity(func: Callable[..., Any]) -> str | None:
    """Name of a nonlinearity, of one value at a time, that is no ReLU; None for everything else."""
    return _OTHERS.get(func)


def recognise(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, in_graph: bool = False
) -> ReluCall | None:
    """Tell whether a call is a ReLU of an activation.

    Parameters
    ----------
    func, args, kwargs
        As ``TorchFunctionMode.__torch_function__`` gets them.
    in_graph
        Whether activations are part of a graph. Only then can zeros of many values be told from an activation that
        happens to be zero throughout, and a maximum with them be taken for a ReLU; one zero is a constant anyway.

    Returns
    -------
    ReluCall | None
        None for everything else: other functions, other bounds than 0 below, bounds that are tensors (but for a
        maximum with zeros), and tensors that cannot be an activation (whole numbers, fewer than two axes).
    """
    if func in _MAXIMA:
        return _maximum(args, kwargs, in_graph)
    spelling = _SPELLINGS.get(func)
    if spelling is None:
        return None
    given = {**dict(zip(spelling.parameters, args, strict=False)), **kwargs}
    if not _can_be_activation(given.get("input", args[0] if args else None)):
        return None
    if spelling.function == "threshold" and not _is_zero(given.get("value")):
        return None
    lower, upper = _bound(spelling.lower, given), _bound(spelling.upper, given)
    if not _is_zero(lower) or not (upper is None or isinstance(upper, Real)):
        return None
    inplace = spelling.inplace or bool(given.get("inplace", False))
    return ReluCall(spelling.function, None if upper is None else float(upper), inplace)


def _bound(source: tuple[str | None, float | None], given: Mapping[str, Any]) -> Any:
    name, default = source
    return default if name is None else given.get(name, default)


def _is_zero(bound: Any) -> bool:
    return isinstance(bound, Real) and bound == 0


def _can_be_activation(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()


def _maximum(args: Sequence[Any], kwargs: Mapping[str, Any], in_graph: bool) -> ReluCall | None:
    given = {**dict(zip(("input", "other"), args, strict=False)), **kwargs}
    if set(given) != {"input", "other"}:
        return None
    first, second = given["input"], given["other"]
    for value, zero, zero_first in ((first, second, False), (second, first, True)):
        if _can_be_activation(value) and _is_constant_zero(zero, value, in_graph):
            return ReluCall("maximum", None, False, zero_first)
    return None


def _is_constant_zero(zero: Any, value: Tensor, in_graph: bool) -> bool:
    if not isinstance(zero, Tensor) or zero.requires_grad or zero.is_meta:
        return False
    if zero.numel() != 1 and not (in_graph and value.requires_grad):
        return False
    fits = torch.broadcast_shapes(zero.shape, value.shape) == value.shape
    return fits and torch.result_type(zero, value) == value.dtype and not bool(zero.any())
