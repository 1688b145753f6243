"""What the network is made of, and whether its filters look learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..album import Album
from ..figures import number
from ..material import Material
from ..sheets import Sheet, sheet, unit_scaled

TITLE = "Weights"
QUESTION = "What is the network made of, and do its filters look learnt?"
_COLUMNS, _SLICE_COLUMNS, _SLICES = 16, 8, 24
_SAMPLES = 64


@dataclass(frozen=True)
class LayerRow:
    """One layer: what it is, its output, parameters, their share of all in percent, and its receptive field."""

    name: str
    kind: str
    output: str
    window: str
    parameters: int
    bar: float
    field: str


@dataclass(frozen=True)
class Verdict:
    """What was said of one convolution; counts are text, since some are unknown."""

    name: str
    kernel: str
    verdict: str
    reason: str
    moran: float | None
    chance: float | None
    p: float | None
    planes: int
    smooth: str
    spikes: str
    near_zero: int
    duplicates: str


@dataclass(frozen=True)
class Slices:
    """The strongest slices of one layer, and which filter and input channel each is."""

    layer: str
    picture: Sheet
    of: str
    alt: str


@dataclass(frozen=True)
class Filters:
    """Filters of the first convolution, each scaled by itself, and all on one scale."""

    layer: str
    each: Sheet
    together: Sheet
    low: float
    high: float
    n: int
    hidden: int
    colour: bool
    shrunk: bool
    planes: int


@dataclass(frozen=True)
class WeightsView:
    """Filters, verdicts, slices, and the table of all layers."""

    parameters: int
    layers: tuple[LayerRow, ...]
    layers_hidden: int
    covered: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    verdicts_hidden: int
    first: Filters | None
    slices: tuple[Slices, ...]
    layers_unshown: int
    single_cells: int
    simulations: int


def view(material: Material, album: Album) -> WeightsView:
    """Gather what the section shows."""
    notes, rows = material.notes("weights"), material.limits.rows
    table: Sequence[Mapping[str, Any]] = notes.get("table", ())
    told = [row for row in table if "audit" in row]
    listed = [row for row in table if row["kind"] not in ("input", "other") or row["parameters"]]
    seen = material.notes("receptive_fields/theoretical")
    fields = seen.get("groups", {})
    first = filters_of(material, notes.get("first_convolution", ""), told)
    refused = first is not None and not album.spend("weights", first.each.size + first.together.size)
    slices, hidden = _slices(material, album, told)
    verdicts = sorted(told, key=lambda row: _ORDER.index(row["audit"]["verdict"]))
    whole = int(notes.get("parameters", 0))
    return WeightsView(
        parameters=whole,
        layers=tuple(_layer(row, whole, fields.get(row["name"], ())) for row in listed[:rows]),
        layers_hidden=max(0, len(listed) - rows),
        covered=tuple(map(str, seen.get("covered", ()))),
        verdicts=tuple(map(verdict_of, verdicts[:rows])),
        verdicts_hidden=max(0, len(verdicts) - rows),
        first=None if refused else first,
        slices=slices,
        layers_unshown=hidden + refused,
        single_cells=sum(int(np.prod(row["kernel"])) == 1 for row in told),
        simulations=int(notes.get("simulated_filters_for_each_p", 0)),
    )


#: What wants a look comes first; within a verdict the order of the forward pass.
_ORDER = ("noise", "rough", "smooth", "inconclusive", "not applicable")


def _layer(row: Mapping[str, Any], whole: int, groups: Sequence[Mapping[str, Any]]) -> LayerRow:
    window = " × ".join(map(str, row["kernel"])) if "kernel" in row else ""
    stride = row.get("stride") or []
    if window and any(step != 1 for step in stride):
        window += f", stride {' × '.join(map(str, stride)) if len(set(stride)) > 1 else stride[0]}"
    if row.get("groups", 1) > 1:
        window += f", {row['groups']} groups"
    return LayerRow(
        name=row["name"],
        kind=row["type"],
        output=" × ".join(map(str, row["output"])),
        window=window,
        parameters=row["parameters"],
        bar=round(100 * row["parameters"] / whole, 1) if whole else 0.0,
        field=field_of(groups),
    )


def field_of(groups: Sequence[Mapping[str, Any]]) -> str:
    """The largest receptive field among the channels of a layer, in pixels."""
    if not groups:
        return ""
    worst = [str(group["status"]) for group in groups]
    if "unknown" in worst:
        return "unknown"
    if "whole" in worst:
        return "whole image"
    sizes = [[float(side) for side in group["size"]] for group in groups]
    text = " × ".join(number(side) for side in np.max(sizes, axis=0))
    return f"up to {text}" if len({tuple(size) for size in sizes}) > 1 else text


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """What a row of the table says of the weights of its convolution."""
    said = row["audit"]
    return Verdict(
        name=row["name"],
        kernel=" × ".join(map(str, row["kernel"])),
        verdict=said["verdict"],
        reason=said["reason"],
        moran=said["moran"],
        chance=said["chance"],
        p=said["p"],
        planes=said["planes"],
        smooth=f"{number(said['smooth'])} of {number(said['filters'])}" if said["filters"] else "",
        spikes=f"{number(said['spikes'])} of {number(said['values'])}" if said["spikes"] is not None else "too few",
        near_zero=said["near_zero"],
        duplicates=number(said["duplicates"]) if said["duplicates"] is not None else "cannot tell",
    )


def _cut(kernels: np.ndarray, kernel: Sequence[int]) -> np.ndarray:
    """Without the padding."""
    sides = kernels.shape[kernels.ndim - len(kernel) :]
    return kernels[(..., *(slice(min(length, side)) for length, side in zip(kernel, sides, strict=True)))]


def filters_of(material: Material, name: str, told: Sequence[Mapping[str, Any]]) -> Filters | None:
    """The filters of the first convolution as pictures; None where they have a single cell, or no weight is finite."""
    row = next((row for row in told if row["name"] == name), None)
    if row is None or int(np.prod(row["kernel"])) == 1:
        return None
    stored = _cut(material.array(f"weights/{name}/filter"), row["kernel"])
    planes = stored[:, np.isfinite(stored).any(axis=(0, *range(2, stored.ndim)))]
    shown = planes[: _SAMPLES * 2]
    finite = planes[np.isfinite(planes)]
    if not finite.size:
        return None
    together = unit_scaled(planes, together=True)[: len(shown)]
    columns = _COLUMNS if planes.ndim == 4 and len(planes) > 2 * _COLUMNS else _SLICE_COLUMNS
    return Filters(
        layer=name,
        each=sheet(unit_scaled(shown, together=False), columns),
        together=sheet(together, columns),
        low=float(finite.min()),
        high=float(finite.max()),
        n=len(shown),
        hidden=len(planes) - len(shown),
        colour=planes.ndim == 4 and planes.shape[1] == 3,
        shrunk=any(length > side for length, side in zip(row["kernel"], stored.shape[2:], strict=True)),
        planes=planes.shape[1],
    )


def _slices(material: Material, album: Album, told: Sequence[Mapping[str, Any]]) -> tuple[tuple[Slices, ...], int]:
    """Layer by layer until the budget is spent, and how many layers were left out."""
    shown, hidden = [], 0
    for row in told[1:]:
        if int(np.prod(row["kernel"])) == 1:
            continue
        drawn = None if hidden else slices_of(material, row)
        if drawn is not None and album.spend("weights", drawn.picture.size + len(drawn.of)):
            shown.append(drawn)
        elif drawn is not None or hidden:
            hidden += 1
    return tuple(shown), hidden


def slices_of(material: Material, row: Mapping[str, Any]) -> Slices | None:
    """The strongest slices of a later convolution as a picture; None where there is nothing to see."""
    name = row["name"]
    of = material.array(f"weights/{name}/slice_of")
    n = min(_SLICES, int((of[:, 0] >= 0).sum()))
    kernels = _cut(material.rows(f"weights/{name}/slice", 0, n), row["kernel"])
    if not n or not np.isfinite(kernels).any():
        return None
    scaled = unit_scaled(kernels[:, None], together=False)
    pairs = ", ".join(f"{channel}←{plane}" for channel, plane in of[:n].tolist())
    alt = f"The {n} strongest planes of {name}"
    return Slices(name, sheet(scaled, _SLICE_COLUMNS), pairs, alt)
