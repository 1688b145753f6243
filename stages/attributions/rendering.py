"""From stored attributions to heatmaps at the resolution of the input; numpy only, so that reports can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import StageError
from .masks import render_masks
from .windows import render_windows

#: Kinds whose stored numbers are scores of altered images: one map per target, called ``heatmap``.
SCORED = ("windows", "masks")
#: Every kind that can be drawn.
KINDS = ("pixels", "layer", *SCORED)
_ENDING = "heatmap"


def render(
    row: Mapping[str, np.ndarray], notes: Mapping[str, Any], input_shape: Sequence[int]
) -> dict[str, Float[np.ndarray, "target ..."]]:
    """Turn what one image has in the store into heatmaps at the resolution of the input.

    Parameters
    ----------
    row
        Everything one leaf stored for one image, by path inside the leaf.
    notes
        What the leaf noted; ``notes["rendering"]["kind"]`` says how its arrays are to be read: ``"pixels"``,
        ``"layer"``, ``"windows"`` or ``"masks"``.
    input_shape
        ``(channel, *space)`` of the network's input.

    Returns
    -------
    dict
        One float64 heatmap per target and input position, in the method's own unit, by path; NaN where the image has
        no such target.

    Raises
    ------
    StageError
        When the notes do not say how, or an array that is needed is missing.
    """
    rendering = _rendering(notes)
    kind, space = rendering["kind"], tuple(map(int, input_shape[1:]))
    if kind == "masks":
        return {_ENDING: render_masks(row, rendering, tuple(input_shape))}
    if kind == "windows":
        return {_ENDING: render_windows(row, rendering, input_shape)}
    paths = [path for path in row if path.endswith(_ENDING)]
    if not paths:
        raise StageError(f"rendering of kind {kind!r}: expected an array called {_ENDING}, got {sorted(row)}")
    if kind == "pixels":
        return {path: _from_pixels(path, row, space) for path in paths}
    return {path: _from_layer(path, row, rendering, space) for path in paths}


def alignment_caveat(path: str, notes: Mapping[str, Any]) -> str:
    """Say why a heatmap may lie off its image; empty where the position of every cell is known.

    Parameters
    ----------
    path
        Path of the heatmap inside its leaf.
    notes
        What the leaf noted.
    """
    rendering = _rendering(notes)
    if rendering["kind"] != "layer":
        return ""
    layer = _layer(path)
    if layer in rendering.get("geometry", {}):
        return ""
    reason = rendering.get("unaligned", {}).get(layer, "the geometry of this layer was not noted")
    return f"alignment unknown: {reason}"


def upsampled(
    heatmap: Float[np.ndarray, "target ..."],
    space: Sequence[int],
    stride: Sequence[float],
    centre: Sequence[float],
) -> Float[np.ndarray, "target ..."]:
    """Interpolate linearly between cells, each lying at the centre of its receptive field.

    Position `i` of the input is the middle of pixel `i`. Outside of the outermost centres the edge value is held, since
    nothing is known there. This is not what resizing the map to the image does, which takes the first cell to lie half
    a stride inside whatever the padding: on a ResNet that is 15.5 pixels off.

    Parameters
    ----------
    heatmap
        One value per target and cell.
    space
        Length of each spatial axis of the input.
    stride, centre
        In input pixels per spatial axis: cell `u` lies at ``centre + u * stride`` (Araujo, Norris and Sim 2019).

    Returns
    -------
    Float[np.ndarray, "target ..."]
        In float64.

    Raises
    ------
    StageError
        When a stride is not above zero, or the axes do not agree in number.
    """
    if min(stride) <= 0 or not len(stride) == len(centre) == len(space) == np.ndim(heatmap) - 1:
        raise StageError(
            f"rendering: expected a stride above 0 and a centre for each of the axes {tuple(space)}, "
            f"got strides {tuple(stride)}, centres {tuple(centre)} and a map of shape {np.shape(heatmap)}"
        )
    found = np.asarray(heatmap, np.float64)
    for axis, (length, step, start) in enumerate(zip(space, stride, centre, strict=True), start=1):
        weight = _linear(int(length), found.shape[axis], float(step), float(start))
        found = np.moveaxis(np.tensordot(found, weight, axes=(axis, 1)), -1, axis)
    return found


def _linear(length: int, cells: int, stride: float, centre: float) -> Float[np.ndarray, "position cell"]:
    """Weights of the cells at each input position; each row adds up to 1."""
    if cells == 1:
        return np.ones((length, 1))
    place = np.clip((np.arange(length) - centre) / stride, 0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(cells)))


def _from_pixels(path: str, row: Mapping[str, np.ndarray], space: tuple[int, ...]) -> np.ndarray:
    heatmap = np.asarray(row[path], np.float64)
    name = f"{path.removesuffix(_ENDING)}scale"
    if name not in row:
        raise StageError(f"rendering of {path}: expected its scale in {name}, got {sorted(row)}")
    if heatmap.shape[1:] != space:
        raise StageError(f"rendering of {path}: expected the input's shape {space}, got {heatmap.shape[1:]}")
    return heatmap * np.asarray(row[name], np.float64).reshape(-1, *(1,) * len(space))


def _from_layer(
    path: str, row: Mapping[str, np.ndarray], rendering: Mapping[str, Any], space: tuple[int, ...]
) -> np.ndarray:
    heatmap = np.asarray(row[path])
    geometry = rendering.get("geometry", {}).get(_layer(path))
    if geometry is not None:
        return upsampled(heatmap, space, geometry["stride"], geometry["centre"])
    stride = [length / cells for length, cells in zip(space, heatmap.shape[1:], strict=True)]
    return upsampled(heatmap, space, stride, [(step - 1) / 2 for step in stride])


def _layer(path: str) -> str:
    return path.removesuffix(_ENDING).rstrip("/")


def _rendering(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    rendering = notes.get("rendering", {})
    if rendering.get("kind") not in KINDS:
        raise StageError(f"rendering: expected notes['rendering']['kind'] to be one of {KINDS}, got {rendering!r}")
    return rendering
