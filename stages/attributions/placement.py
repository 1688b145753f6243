"""Where the cells of a method's layers lie in the image, worked out once per network and noted beside the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn

from ..errors import StageError
from ..network.fields import LayerField, map_fields
from ..network.geometry import Geometry, geometry_of

#: By model: place of each layer at an input shape, or why it has none.
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[str, tuple[int, ...]], Geometry | str]] = WeakKeyDictionary()


def place_facts(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Strides and centres of layers as small arrays, to be handed on with the maps.

    The arguments are those of `convaudit.stages.network.fields.map_fields`.

    Returns
    -------
    dict
        ``stride:<layer>`` and ``centre:<layer>`` in input pixels per spatial axis, or ``unaligned:<layer>`` with the
        reason why nobody can say.
    """
    facts = {}
    for layer, place in _places(model, layers, input_shape).items():
        if isinstance(place, Geometry):
            facts[f"stride:{layer}"], facts[f"centre:{layer}"] = np.array(place.stride), np.array(place.centre)
        else:
            facts[f"unaligned:{layer}"] = np.array(place)
    return facts


def place_notes(facts: Mapping[str, np.ndarray], layers: Iterable[str]) -> dict[str, Any]:
    """What `convaudit.stages.attributions.rendering` reads, from `place_facts`."""
    layers = list(layers)
    return {
        "geometry": {
            layer: {part: np.asarray(facts[f"{part}:{layer}"]).tolist() for part in ("stride", "centre")}
            for layer in layers
            if f"stride:{layer}" in facts
        },
        "unaligned": {layer: str(facts[f"unaligned:{layer}"]) for layer in layers if f"unaligned:{layer}" in facts},
    }


def _places(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, Geometry | str]:
    known = _KNOWN.setdefault(model, {})
    asked = [layer for layer in layers if (layer, input_shape) not in known]
    if asked:
        known |= {(layer, input_shape): place for layer, place in _worked_out(model, asked, input_shape).items()}
    return {layer: known[layer, input_shape] for layer in layers}


def _worked_out(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, Geometry | str]:
    """Places, or what the network says against them; any other failure may pass, is raised and not remembered."""
    try:
        seen = map_fields(model, layers, input_shape)
    except StageError as error:
        if len(layers) == 1:
            return {layers[0]: str(error)}
        # One layer that is not computed must not take their places from the others.
        return {layer: place for one in layers for layer, place in _worked_out(model, [one], input_shape).items()}
    return {layer: _placed(layer, seen[layer]) for layer in layers}


def _placed(layer: str, seen: LayerField) -> Geometry | str:
    try:
        return geometry_of(layer, seen)
    except StageError as error:
        return str(error)
