"""Receptive fields: which pixels can change the cells of each layer, channel by channel, in any network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .field_map import Field, FieldMap, merged
from .graph import Graph, traced_or_reason
from .propagation import Lost, State, propagate

#: How the reason begins where nothing can be said of any layer.
NOT_FOLLOWED = "the network cannot be followed"


@dataclass(frozen=True)
class Group:
    """Channels of a layer that see the same.

    Parameters
    ----------
    channels
        Positions in ascending order.
    field
        What they see; None for constants, which see nothing.
    """

    channels: tuple[int, ...]
    field: Field | None


@dataclass(frozen=True)
class LayerField:
    """What the cells of a layer see.

    Parameters
    ----------
    groups
        Every channel in one of them.
    field
        What any of its channels sees.
    before
        What any channel of its input sees; None where the layer is not a convolution, or nobody knows.
    channel_axis
        Whether its channels lie along its first axis after that of images.
    """

    groups: tuple[Group, ...]
    field: Field
    before: Field | None = None
    channel_axis: bool = True


def map_fields(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, LayerField]:
    """Find which pixels can change the cells of some layers.

    Intervals of pixels are followed through every operation, per spatial axis and per channel, along every path (Araujo
    et al. 2019 for paths that meet); the recurrences of that paper are a special case. Zeros around a map count as
    cells that see on, so that cells at the border see no more than what is found here, cut to the image.

    Parameters
    ----------
    model
        In evaluation mode.
    layers
        Layer names.
    input_shape
        ``(channel, *space)`` of the network's input.

    Returns
    -------
    dict
        What is seen, by layer; with the reason where nobody can say.

    Raises
    ------
    StageError
        When the model has no such layer, or does not compute it.
    """
    n_space = len(input_shape) - 1
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros((1, *input_shape), dtype=like.dtype, device=like.device)
    graph = traced_or_reason(model, image, layers, fixed_length=True)
    if isinstance(graph, str):
        unknown = _nowhere(n_space, f"{NOT_FOLLOWED} ({graph})")
        return {layer: LayerField((), unknown) for layer in layers}
    # What was computed is not needed, and takes more memory than all else.
    graph.values.clear()
    states = propagate(graph, n_space)
    constant = LayerField((), _nowhere(n_space, "it does not depend on the image"))
    found = {layer: _read(graph, states, index, n_space) for layer, index in graph.layers.items()}
    return {layer: found.get(layer, constant) for layer in layers}


def _read(graph: Graph, states: Sequence[State], index: int, n_space: int) -> LayerField:
    node, state = graph.nodes[index], states[index]
    if isinstance(state, Lost):
        field = _nowhere(n_space, None if state.whole else state.reason, whole=state.whole)
        return LayerField((Group(tuple(range(node.shape[1])), field),) if len(node.shape) > 1 else (), field)
    standing = 1 not in state.axes and state.axes == tuple(range(2, len(node.shape))) and state.folded is None
    field = _all(state)
    groups = _groups(state, node.shape[1]) if standing else (Group(tuple(range(node.shape[1])), field),)
    before = states[node.refs()[0]] if node.name == "convolution" else None
    return LayerField(groups, field, _all(before) if isinstance(before, FieldMap) else None, standing)


def _all(state: FieldMap) -> Field:
    return merged(state.fields, "layer") if state.fields else _nowhere(len(state.axes), "it is constant")


def _groups(state: FieldMap, channels: int) -> tuple[Group, ...]:
    label = np.broadcast_to(state.label.reshape(-1), channels)
    return tuple(
        Group(tuple(np.flatnonzero(label == place).tolist()), None if place < 0 else state.fields[place])
        for place in np.unique(label)
    )


def _nowhere(n_space: int, reason: str | None, whole: bool = False) -> Field:
    return Field((None,) * n_space, (whole,) * n_space, ((0, 0),) * n_space, None, reason)
