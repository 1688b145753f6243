"""The graph as it is best computed again: without dead ends, and with batch norms folded into convolutions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from ..graph import Graph, Node, Ref
from ..operations import CONVOLUTIONS, arguments, fixed_norm


def needed(nodes: list[Node], output: int) -> list[int]:
    """The nodes that a node depends on, and itself, in order."""
    wanted = {output}
    for index in range(output, -1, -1):
        if index in wanted:
            wanted.update(nodes[index].refs())
    return sorted(wanted)


def consumers(nodes: list[Node], kept: list[int]) -> Counter[int]:
    """How many of the kept nodes take what each gives."""
    return Counter(ref for index in kept for ref in nodes[index].refs())


def fold_norms(graph: Graph) -> list[Node]:
    """Turn each batch norm that alone follows a convolution into a convolution with other weights.

    The sums are rounded in another order than by the network: equal to about 1e-7 of the largest value in single
    precision.
    """
    kept = needed(graph.nodes, graph.output)
    taken = consumers(graph.nodes, kept)
    nodes = list(graph.nodes)
    for index in kept:
        node = nodes[index]
        refs = node.refs()
        if node.pick == 0 and len(refs) == 1 and fixed_norm(node) and taken[refs[0]] == 1:
            folded = _folded(nodes[refs[0]], node)
            nodes[index] = node if folded is None else replace(folded, shape=node.shape)
    return nodes


def _folded(before: Node, norm: Node) -> Node | None:
    if before.name not in CONVOLUTIONS or len(before.args) < 3 or before.kwargs:
        return None
    image, weight, bias, *rest = before.args
    # Transposed convolutions have their output channels elsewhere.
    if not isinstance(weight, Tensor) or isinstance(bias, Ref) or arguments(before)["transposed"]:
        return None
    factor, summand = _affine(norm, weight)
    bias = summand if bias is None else summand + factor * bias
    scaled = weight * factor.view(-1, *[1] * (weight.ndim - 1))
    if weight.ndim == 4:
        scaled = scaled.contiguous(memory_format=torch.channels_last)
    return replace(before, args=(image, scaled, bias, *rest))


def _affine(norm: Node, like: Tensor) -> tuple[Tensor, Tensor]:
    given = arguments(norm)
    eps = given["eps"] if "eps" in given else given["epsilon"]
    factor = torch.rsqrt(given["running_var"] + eps)
    if given["weight"] is not None:
        factor = factor * given["weight"]
    summand = -given["running_mean"] * factor
    if given["bias"] is not None:
        summand = summand + given["bias"]
    return factor.to(like.dtype), summand.to(like.dtype)
