"""What is measured of the weights before anything is judged; two kinds of work, each a task's partial result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import AuditError
from ..network.graph import UntraceableError
from ..network.lineage import Lineage, lineage
from ..numerics.seeds import numpy_generator
from ..specs import LayerSpec
from .duplicates import twins
from .kernels import filters_of, norms_of
from .magnitude import is_near_zero
from .moran import filter_p_values, is_judgeable, long_axes, morans_i
from .neighbourhood import Outgoing, bias_of, centre_and_spread, scale_and_shift
from .slices import fitted, padded, strongest
from .spectrum import spectrum
from .table import module_name, parameter_count, table


@dataclass(frozen=True)
class Extent:
    """How much of a layer's weights is stored to be looked at: filters or slices, input channels, and longest side."""

    is_first: bool
    slices: int
    planes: int
    side: int


def measure_layer(
    module: nn.Module, name: str, extent: Extent, near_zero: float, simulations: int, shuffles: int, seed: int
) -> dict[str, np.ndarray]:
    """Everything that one convolution's weights alone tell."""
    filters, groups = filters_of(module), int(module.groups)  # pyright: ignore[reportArgumentType]
    norm = norms_of(filters)
    well = np.isfinite(norm) & ~is_near_zero(norm, near_zero)
    twin, cosine = twins(filters, groups, well)
    values = spectrum(filters, groups, shuffles, numpy_generator(seed, name, "weights shuffle"))
    found = {"norm": norm, "twin": twin, "cosine": cosine, "spectrum": np.array([*asdict(values).values()], float)}
    found |= {"kernel": np.array(filters.shape[2:]), "groups": np.array(groups), "cells": np.array(filters[0].size)}
    return found | _smoothness(filters, simulations, seed) | _pictures(filters, extent)


def _smoothness(filters: np.ndarray, simulations: int, seed: int) -> dict[str, np.ndarray]:
    kernel, n = filters.shape[2:], len(filters)
    if not is_judgeable(kernel):
        return {"moran": np.full(n, np.nan), "planes": np.zeros(n, np.int32), "p": np.full(n, np.nan)}
    each = morans_i(filters.reshape(-1, *kernel)).reshape(n, -1)
    planes = np.isfinite(each).sum(axis=1).astype(np.int32)
    with np.errstate(invalid="ignore"):
        mean = np.where(planes > 0, np.nansum(each, axis=1) / planes, np.nan)
    p = filter_p_values(mean, planes, long_axes(kernel), simulations, seed)
    return {"moran": mean, "planes": planes, "p": p}


def _pictures(filters: np.ndarray, extent: Extent) -> dict[str, np.ndarray]:
    n, planes, *kernel = filters.shape
    if extent.is_first:
        kept = min(planes, extent.planes)
        shown = fitted(filters[:, :kept].reshape(-1, *kernel), extent.side)
        small = padded(shown, len(shown), extent.side).reshape(n, kept, *(extent.side,) * len(kernel))
        filled = np.full((n, extent.planes, *small.shape[2:]), np.nan, np.float32)
        filled[:, :kept] = small
        return {"filter": filled}
    slices, of = strongest(filters, extent.slices if long_axes(kernel) else 0)
    which = np.full((extent.slices, 2), -1, np.int32)
    which[: len(of)] = of
    return {"slice": padded(fitted(slices, extent.side), extent.slices, extent.side), "slice_of": which}


def measure_network(model: nn.Module, layers: Sequence[LayerSpec], shape: Sequence[int]) -> dict[str, np.ndarray]:
    """The table of layers, and what stands in front of and behind each channel of each convolution.

    The arrays of a convolution are called ``gamma/<layer>`` and so on; ``text`` holds JSON.
    """
    text: dict[str, Any] = {"table": table(model, layers), "parameters": parameter_count(model), "reason": ""}
    known: Mapping[str, Lineage] = {}
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    try:
        known = lineage(model, torch.zeros((1, *shape), dtype=like.dtype, device=like.device), layers)
    except (UntraceableError, AuditError) as error:
        text["reason"] = str(error)
    text["lineage"] = {name: of.note() for name, of in known.items()}
    outgoing, found = Outgoing(model), {}
    for layer in layers:
        if layer.kind == "conv":
            of, n = known.get(layer.name, Lineage()), layer.shape[0]
            norm = model.get_submodule(module_name(of.norm)) if of.norm else None
            gamma, beta = scale_and_shift(norm, n)
            centre, spread = centre_and_spread(norm, n)
            found |= {f"gamma/{layer.name}": gamma, f"beta/{layer.name}": beta}
            found |= {f"centre/{layer.name}": centre, f"spread/{layer.name}": spread}
            found[f"bias/{layer.name}"] = bias_of(model.get_submodule(module_name(layer.name)), n)
            found[f"outgoing/{layer.name}"] = outgoing.of(of, n)
    return found | {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)}
