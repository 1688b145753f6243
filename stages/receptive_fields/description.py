"""Receptive fields of the network as plain data that can be stored: numbers per layer, and groups of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..network.fields import Field, LayerField
from .boxes import STATUS


def status_of(field: Field) -> str:
    """What can be said of a receptive field, one of `STATUS`."""
    if field.unknown is not None:
        return "unknown"
    return "whole" if any(field.whole) else "exact"


def columns(fields: Sequence[LayerField], space: Sequence[int]) -> dict[str, np.ndarray]:
    """Numbers of each layer.

    Parameters
    ----------
    fields
        What each layer sees.
    space
        Length of the image along each spatial axis.

    Returns
    -------
    dict
        ``size, stride, centre, local, before`` ``(layer, axis)`` in pixels, NaN where unknown, and ``status``
        ``(layer,)``.
    """
    rows = [field.field for field in fields]
    before = [_sizes(field.before, space, local=True) if field.before else [np.nan] * len(space) for field in fields]
    return {
        "size": _table([_sizes(row, space) for row in rows], space),
        "stride": _table([_numbers(row, "stride") for row in rows], space),
        "centre": _table([_numbers(row, "centre") for row in rows], space),
        "local": _table([_sizes(row, space, local=True) for row in rows], space),
        "before": _table(before, space),
        "status": np.array([STATUS.index(status_of(row)) for row in rows], np.int8),
    }


def _table(rows: Sequence[Sequence[float]], space: Sequence[int]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), len(space))


def _sizes(field: Field, space: Sequence[int], *, local: bool = False) -> list[float]:
    if field.unknown is not None:
        return [np.nan] * len(space)
    return [
        float(length) if whole and not local else np.nan if reach is None else float(reach.size)
        for reach, whole, length in zip(field.reach, field.whole, space, strict=True)
    ]


def _numbers(field: Field, name: str) -> list[float]:
    if field.unknown is not None:
        return [np.nan] * len(field.reach)
    return [np.nan if reach is None else float(getattr(reach, name)) for reach in field.reach]


def described(seen: LayerField, space: Sequence[int]) -> list[dict[str, Any]]:
    """The groups of a layer's channels, for `convaudit.stages.receptive_fields.boxes`."""
    return [
        {"channels": runs(group.channels)} | _group(group.field, seen.field, space, placed=seen.channel_axis)
        for group in seen.groups
    ]


def _group(field: Field | None, layer: Field, space: Sequence[int], *, placed: bool) -> dict[str, Any]:
    shown = layer if field is None else field
    sizes, local = _sizes(shown, space), _sizes(shown, space, local=True)
    if field is None:
        # A constant lies where the other channels do, and sees nothing.
        sizes = local = [0.0] * len(space)
    group = {
        "size": _listed(sizes),
        "local": _listed(local),
        "stride": _listed(_numbers(shown, "stride")) if placed else [None] * len(space),
        "centre": _listed(_numbers(shown, "centre")) if placed else [None] * len(space),
        # Whose channels come last is known as a layer, but not by (channel, place).
        "status": "unknown" if not placed else "exact" if field is None else status_of(field),
    }
    if group["status"] != "unknown" and None not in group["local"]:
        # Of a constant this is never asked, since its box holds nothing.
        group["ends"] = [[first, last + 1] for first, last in shown.ends]
    reaches = [reach for reach in shown.reach if reach is not None]
    if field is not None and len(reaches) == len(space) and any(len(reach.first) > 1 for reach in reaches):
        group["phases"] = [[list(ends) for ends in zip(reach.first, reach.last, strict=True)] for reach in reaches]
    return group


def _listed(values: Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values]


def runs(channels: Sequence[int]) -> list[list[int]]:
    """Ascending positions as runs ``[start, stop, step]``, each as long as it can be."""
    found: list[list[int]] = []
    at = 0
    while at < len(channels):
        step = channels[at + 1] - channels[at] if at + 1 < len(channels) else 1
        end = at + 1
        while end < len(channels) and channels[end] - channels[end - 1] == step:
            end += 1
        found.append([channels[at], channels[end - 1] + 1, step])
        at = end
    return found


def reasons(fields: Mapping[str, LayerField]) -> dict[str, str]:
    """Why nobody can say what a layer sees, by layer."""
    return {name: seen.field.unknown for name, seen in fields.items() if seen.field.unknown is not None}


def clashes(fields: Mapping[str, LayerField]) -> dict[str, list[str]]:
    """Layers in which branches have met that disagree, by how they do."""
    found: dict[str, list[str]] = {}
    for name, seen in fields.items():
        if seen.field.clash is not None:
            found.setdefault(seen.field.clash, []).append(name)
    return found
