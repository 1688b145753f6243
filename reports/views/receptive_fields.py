"""Which pixels each layer can see, and where some of its units look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...stages.receptive_fields.boxes import STATUS
from .. import rasters
from ..album import Album
from ..figures import coordinate, number
from ..material import Material

TITLE = "Receptive fields"
QUESTION = "How much of the image can each layer see, and how much of that does it look at?"
NOUN = "receptive_fields"
_THEORETICAL, _EFFECTIVE = f"{NOUN}/theoretical", f"{NOUN}/effective"
# A weight is drawn out to this many standard deviations: about 95 % of a Gaussian along an axis.
_DEVIATIONS = 2
_SIGNAL = (120, 60)


@dataclass(frozen=True)
class Row:
    """What one layer sees, as text.

    Parameters
    ----------
    name, kind, output
        The layer.
    size, stride, padding, centre
        Pixels per axis; one number where all axes agree.
    channels
        Sizes of the groups of channels that see less; empty where all see the same.
    status
        One of `STATUS`.
    local
        Whether the size leaves out what is pooled over the image.
    why
        Why nothing can be said; empty where something can.
    covered
        Whether its input already sees all of the image.
    """

    name: str
    kind: str
    output: str
    size: str
    stride: str
    padding: str
    centre: str
    channels: str
    status: str
    local: bool
    why: str
    covered: bool


@dataclass(frozen=True)
class Panel:
    """Where units of one layer look, over an image.

    Parameters
    ----------
    name, detail
        The layer, and the numbers.
    alt
        The picture in one sentence.
    image
        Name of the embedded image below; empty where there is none.
    heat
        Data address of the weight.
    width, height
        Size in user units.
    box, spread
        Paths: what can be seen, and two standard deviations of the weight.
    """

    name: str
    detail: str
    alt: str
    image: str
    heat: str
    width: int
    height: int
    box: str
    spread: str


@dataclass(frozen=True)
class FieldsView:
    """What the section shows.

    Parameters
    ----------
    rows, rows_hidden
        Layers by depth, without those that see the same as the one before; and how many more there are.
    same
        Layers left out since they see the same as the one before.
    lengths
        Size of the image, as text.
    panels, panels_hidden
        Measured layers, and how many did not fit.
    """

    rows: tuple[Row, ...]
    rows_hidden: int
    same: int
    lengths: str
    panels: tuple[Panel, ...]
    panels_hidden: int


def view(material: Material, album: Album) -> FieldsView | None:
    """Gather what the section shows; None where nothing was worked out."""
    if not material.has(_THEORETICAL):
        return None
    rows, same = _rows(material)
    panels = _panels(material, album) if material.has(_EFFECTIVE) else []
    measured = len(material.notes(_EFFECTIVE).get("layers", ()))
    limit = material.limits.rows
    return FieldsView(
        rows=tuple(rows[:limit]),
        rows_hidden=max(0, len(rows) - limit),
        same=same,
        lengths=_across(_space(material)),
        panels=tuple(panels),
        panels_hidden=measured - len(panels),
    )


def _space(material: Material) -> list[int]:
    return [int(length) for length in material.subject["input_shape"][1:]]


def _rows(material: Material) -> tuple[list[Row], int]:
    """Layers in the order of the forward pass; and how many of them show nothing new."""
    notes = material.notes(_THEORETICAL)
    columns = {name: material.array(f"{_THEORETICAL}/{name}") for name in ("size", "local", "stride", "centre")}
    status = material.array(f"{_THEORETICAL}/status")
    described = {layer["name"]: layer for layer in material.subject.get("layers", ()) if isinstance(layer, Mapping)}
    rows: list[Row] = []
    before: tuple[Any, ...] = ()
    for place, name in enumerate(notes["layers"]):
        layer = described.get(name, {})
        own = {key: values[place] for key, values in columns.items()}
        sees = [group["size"] for group in notes["groups"].get(name, ())]
        now = (*(values.tolist() for values in own.values()), int(status[place]), sees)
        same = str(now) == str(before) and layer.get("kind") != "conv"
        before = now
        if not same:
            rows.append(_row(name, layer, own, STATUS[int(status[place])], notes))
    return rows, len(notes["layers"]) - len(rows)


def _row(
    name: str, layer: Mapping[str, Any], own: Mapping[str, np.ndarray], status: str, notes: Mapping[str, Any]
) -> Row:
    groups = notes["groups"].get(name, ())
    sizes = sorted({tuple(group["size"]) for group in groups if None not in group["size"]})
    fewer = [_one(np.array(size)) for size in sizes[:-1]]
    padding = (own["local"] - 1) / 2 - own["centre"]
    shape = [int(length) for length in layer.get("shape", ())]
    return Row(
        name=name,
        kind=str(layer.get("module", "")),
        output=_across(shape),
        size="" if status == "unknown" else _one(own["local"] if np.isfinite(own["local"]).all() else own["size"]),
        stride=_one(own["stride"]),
        padding=_one(padding),
        centre=_one(own["centre"]),
        channels=", ".join(fewer[-4:]),
        status=status,
        local=status == "whole" and bool(np.isfinite(own["local"]).all()),
        why=str(notes["reasons"].get(name, "")),
        covered=name in notes["covered"],
    )


def _across(lengths: Sequence[float]) -> str:
    return " × ".join(number(length) for length in lengths)


def _one(values: np.ndarray) -> str:
    """One number where all axes agree, else one for each; a dash where one is unknown."""
    if not np.isfinite(np.asarray(values, float)).all():
        return "–"
    return number(float(values[0])) if len(set(np.asarray(values).tolist())) == 1 else _across(values.tolist())


def _panels(material: Material, album: Album) -> list[Panel]:
    notes = material.notes(_EFFECTIVE)
    shown = (album.evidence(NOUN, image, ()) for image in notes["images"])
    evidence = next((found for found in shown if found is not None and found.frames), None)
    frame = evidence.frames[0] if evidence is not None else None
    space = _space(material)
    size = (frame.width, frame.height) if frame else _SIGNAL if len(space) == 1 else (space[1], space[0])
    panels = []
    for place, name in enumerate(notes["layers"]):
        panel = _panel(material, place, name, size)
        if not album.spend(NOUN, len(panel.heat) + 900):
            break
        panels.append(_over(panel, frame.symbols[0] if frame else ""))
    return panels


def _over(panel: Panel, image: str) -> Panel:
    return Panel(**{**vars(panel), "image": image})


def _panel(material: Material, place: int, name: str, size: tuple[int, int]) -> Panel:
    read = {key: material.row(f"{_EFFECTIVE}/{key}", place) for key in ("weight", "spread", "middle", "box")}
    space, box = _space(material), read["box"].astype(int)
    # User units per pixel, per spatial axis.
    unit = np.array(size[::-1] if len(space) > 1 else size[:1], float) / space
    units = int(material.row(f"{_EFFECTIVE}/units", place))
    sees = _across((box[:, 1] - box[:, 0]).tolist())
    if not np.isfinite(read["spread"]).all():
        detail = f"sees {sees}; every gradient is zero"
        return Panel(name, detail, f"{name} {detail}", "", "", *size, _rectangle(box * unit[:, None], size), "")
    wide = 2 * _DEVIATIONS * read["spread"]
    detail = f"sees {sees}, looks at {' × '.join(f'{side:.1f}' for side in wide)}; {number(units)} gradients"
    heat = rasters.data_uri("image/webp", rasters.encode_heatmap(read["weight"]))
    drawn = _ellipse((read["middle"] + 0.5) * unit, wide / 2 * unit, size)
    alt = f"Middle of layer {name}: {detail}"
    return Panel(name, detail, alt, "", heat, *size, _rectangle(box * unit[:, None], size), drawn)


def _rectangle(ends: np.ndarray, size: tuple[int, int]) -> str:
    """A box from its ends ``(axis, 2)`` in user units; over the full height for a signal."""
    (top, bottom), (left, right) = ends if len(ends) == 2 else ((0, size[1]), ends[0])
    x, y, across, down = (coordinate(value) for value in (left, top, right - left, bottom - top))
    return f"M{x} {y}h{across}v{down}h-{across}z"


def _ellipse(middle: np.ndarray, radius: np.ndarray, size: tuple[int, int]) -> str:
    """An ellipse around a middle, both per axis in user units; for a signal, the part of the axis."""
    if len(middle) == 1:
        return _rectangle(np.array([[middle[0] - radius[0], middle[0] + radius[0]]]), size)
    left, y = coordinate(middle[1] - radius[1]), coordinate(middle[0])
    across, down, wide = coordinate(radius[1]), coordinate(radius[0]), coordinate(2 * radius[1])
    return f"M{left} {y}a{across} {down} 0 1 0 {wide} 0a{across} {down} 0 1 0 -{wide} 0z"
