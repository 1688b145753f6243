"""The same network as a chain of modules, one per step, as rules of relevance propagation need it.

Such rules are put on modules. A ReLU, a mean or a sum that is only called would get the plain gradient instead, and a
module called twice would mix up its calls; so each step of the traced network becomes a module of its own. Whether the
result is still the same function is for the caller to compare.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..errors import StageError, in_words


class Spread(nn.Module):
    """A linear function without parameters, such as a mean: relevance goes back in proportion to its terms."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.arguments, self.keywords = function, arguments, keywords

    def forward(self, value: Tensor) -> Tensor:
        """Call it."""
        return self.function(value, *self.arguments, **self.keywords)


class Total(nn.Module):
    """Sum over the last axis."""

    def forward(self, value: Tensor) -> Tensor:
        """Add up."""
        return value.sum(-1)


#: Steps through which relevance passes as their derivative has it: they move values and choose among them.
_MOVES = (
    *("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "to", "clone"),
    *("cat", "concat", "chunk", "split", "getitem", "narrow", "select", "dropout", "dropout2d", "amax"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "boolean_dispatch"),
)
_MEANS = (
    *("mean", "sum", "interpolate", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
)
_SUMS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
_RELUS = frozenset({F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"})
_CLAMPS = frozenset({F.hardtanh, F.hardtanh_, F.relu6, torch.clamp, torch.clip, "clamp", "clamp_", "clip", "clip_"})
_KNOWN = (_ConvNd, nn.Linear, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ReLU, nn.Hardtanh)


def as_modules(model: nn.Module, images: Tensor) -> fx.GraphModule:
    """Trace a network and make each of its steps a module.

    Parameters
    ----------
    model
        In evaluation mode; left as it is.
    images
        ``(image, channel, *space)``: what to try it with.

    Returns
    -------
    fx.GraphModule
        Batch norms that follow a convolution or a linear layer are merged into it; `Spread` and `Total` stand for
        means and sums; ``.foreign`` names the steps that no rule is known for.

    Raises
    ------
    StageError
        When its way depends on the data, so that there is no single graph.
    """
    try:
        graph = fx.symbolic_trace(model)
        _follow_writes(graph.graph)
        ShapeProp(graph).propagate(images)
    except Exception as error:
        raise StageError(
            f"lrp: the network cannot be traced into one graph ({in_words(error)}); use another method for it"
        ) from error
    for number, node in enumerate(list(graph.graph.nodes)):
        module = _module_for(graph, node)
        if module is not None:
            name = f"step{number}"
            graph.add_submodule(name, module)
            _replace(graph.graph, node, name)
    _merge_norms(graph)
    graph.delete_all_unused_submodules()
    graph.recompile()
    graph.foreign = tuple(sorted(set(_foreign(graph))))  # pyright: ignore[reportArgumentType]
    return graph.eval().requires_grad_(False)


def _tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and "tensor_meta" in node.meta and hasattr(node.meta["tensor_meta"], "shape")


def _follow_writes(graph: fx.Graph) -> None:
    """What comes after a call that writes into its input sees what was written."""
    nodes = list(graph.nodes)
    for place, node in enumerate(nodes):
        if _writes(node) and node.args and isinstance(node.args[0], fx.Node):
            later = set(nodes[place + 1 :])
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, later=later: user in later)


def _writes(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    inplace = node.kwargs.get("inplace") or (node.target in (F.relu, F.relu6) and len(node.args) > 1 and node.args[1])
    dunder = name.startswith("__")
    return bool(inplace) or (name.endswith("_") and not dunder) or node.target is operator.iadd


def _module_for(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op == "call_module":
        made = copy.deepcopy(graph.get_submodule(str(node.target)))
        if isinstance(getattr(made, "inplace", None), bool):
            made.inplace = False  # pyright: ignore[reportArgumentType]
        return made
    if node.op not in ("call_function", "call_method") or not _tensor(node):
        return None
    return _relu(node) or _sum(node) or _mean(node)


def _relu(node: fx.Node) -> nn.Module | None:
    if node.target in _RELUS:
        return nn.ReLU()
    if node.target not in _CLAMPS:
        return None
    if node.target is F.relu6:
        return nn.ReLU6()
    hard = node.target in (F.hardtanh, F.hardtanh_)
    names = ("min_val", "max_val") if hard else ("min", "max")
    given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    low, high = given.get(names[0], -1.0 if hard else None), given.get(names[1], 1.0 if hard else None)
    if low != 0 or isinstance(high, fx.Node):
        return None
    return nn.ReLU() if high is None else nn.Hardtanh(0.0, float(high))  # pyright: ignore[reportArgumentType]


def _sum(node: fx.Node) -> nn.Module | None:
    terms = node.target in _SUMS and len(node.args) == 2 and not node.kwargs and all(map(_tensor, node.args))
    return Total() if terms else None


def _mean(node: fx.Node) -> nn.Module | None:
    if _name(node) not in _MEANS or not node.args or any(isinstance(arg, fx.Node) for arg in node.args[1:]):
        return None
    function = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
    return Spread(function, tuple(node.args[1:]), dict(node.kwargs))


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _replace(graph: fx.Graph, node: fx.Node, name: str) -> None:
    if node.op == "call_module":
        node.target = name
        return
    with graph.inserting_before(node):
        first = node.args[0] if node.args else node.kwargs["input"]
        if node.target in _SUMS:
            first = graph.call_function(_side_by_side, (node.args[0], node.args[1]))
        made = graph.call_module(name, (first,))
        made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(first, second), -1)


def _merge_norms(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, layer = graph.get_submodule(str(node.target)), graph.get_submodule(str(before.target))
        if not isinstance(norm, _BatchNorm) or norm.running_var is None:
            continue
        if isinstance(layer, _ConvNd):
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(layer, norm, layer.transposed))
        elif isinstance(layer, nn.Linear):
            graph.set_submodule(str(before.target), fuse_linear_bn_eval(layer, norm))
        else:
            continue
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)


def _foreign(graph: fx.GraphModule) -> list[str]:
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            pool = "Pool" in type(module).__name__ and "LP" not in type(module).__name__
            if not isinstance(module, (*_KNOWN, _BatchNorm, Spread, Total)) and not pool:
                found.append(type(module).__name__)
        elif node.op in ("call_function", "call_method") and _tensor(node) and _name(node).strip("_") not in _MOVES:
            found.append(_name(node).strip("_"))
    return found
