"""Stored attributions as heatmaps over the input: which there are, and what to know of each before believing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..stages.attributions.rendering import KINDS, SCORED, alignment_caveat, render
from ..stages.attributions.windows import winning_classes
from .material import Material
from .winners import cell_edges

#: How methods are written; any other by its name in the store.
_SPELLED = {
    "cam": "CAM",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "Layer-CAM",
    "guided_grad_cam": "Guided Grad-CAM",
    "guided_backprop": "Guided backprop",
    "deconvnet": "Deconvnet",
    "captum": "Captum",
    "rise": "RISE",
    "lrp": "LRP",
    "smooth_grad": "SmoothGrad",
    "smooth_grad_squared": "SmoothGrad squared",
    "var_grad": "VarGrad",
    "gradient_input": "Gradient x input",
}
_FIRST = "attributions/grad_cam"
_ENDING = "heatmap"
#: Path that stands for the winning class under each window, which is no array of its own where all scores are kept.
WINNER = "winner"
#: Of a method that stores scores, the arrays with one row per target.
_ALONG_TARGETS = ("target", "against")
_COARSE = ("layer", *SCORED, "pixels")


@dataclass(frozen=True)
class Source:
    """A heatmap that is stored for every image.

    Parameters
    ----------
    leaf, path
        Where: the leaf, and the path inside it.
    method
        The method in words.
    layer
        The layer whose resolution it has; empty at that of the input.
    target
        What it explains, as configured.
    n_target
        How many maps each image has.
    signed
        Whether it tells evidence for from evidence against.
    kind
        How its numbers are read: see `render`.
    caveat
        Why it may lie off the image; empty where it does not.
    """

    leaf: str
    path: str
    method: str
    layer: str = ""
    target: str = "predicted"
    n_target: int = 1
    signed: bool = False
    kind: str = "pixels"
    caveat: str = ""

    @property
    def caption(self) -> str:
        """Method and layer."""
        return f"{self.method}, {self.layer}" if self.layer else self.method


@dataclass(frozen=True)
class Heatmap:
    """One heatmap of one image.

    Parameters
    ----------
    values
        Shape ``(*space)`` of the input, finite.
    target
        Class position that it explains.
    """

    values: np.ndarray
    target: int


def sources(material: Material) -> tuple[Source, ...]:
    """Every stored heatmap: Grad-CAM first, deepest layer first, then the others, coarse ones before fine ones."""
    leaves = sorted(material.leaves("attributions"), key=lambda leaf: (leaf != _FIRST, leaf))
    found = [source for leaf in leaves if material.has(leaf) for source in _sources(material, leaf)]
    return tuple(sorted(found, key=lambda source: (source.leaf != _FIRST, _COARSE.index(source.kind))))


def targets(material: Material, source: Source, position: int) -> tuple[int, ...]:
    """Class that each heatmap of an image explains, in the order of the target axis; -1 where there is none."""
    return tuple(map(int, material.row(f"{source.leaf}/target", position)))


def leading(material: Material, source: Source, position: int) -> int:
    """Which heatmap of an image speaks for it: that of the prediction, else the first."""
    predicted = -1 if material.predicted is None else int(material.predicted[position])
    found = targets(material, source, position) if source.n_target > 1 else ()
    return found.index(predicted) if predicted in found else 0


def further(material: Material, sources: Sequence[Source], position: int) -> dict[int, list[tuple[Source, int]]]:
    """Heatmaps of an image beside the leading ones, with their places on the target axis, by class.

    The classes stand in the order of the image's logits, the largest first; in their own where these are not stored.
    """
    found: dict[int, list[tuple[Source, int]]] = {}
    for source in sources:
        shown = leading(material, source, position)
        for place, target in enumerate(targets(material, source, position) if source.n_target > 1 else ()):
            if target >= 0 and place != shown:
                found.setdefault(target, []).append((source, place))
    logits = material.row("predictions/logit", position) if material.has("predictions") else None
    order = sorted(found, key=lambda target: (0.0 if logits is None else -float(logits[target]), target))
    return {target: found[target] for target in order}


def heatmap(material: Material, source: Source, position: int, place: int = 0) -> Heatmap | None:
    """One heatmap of an image, by its place on the target axis.

    None where the image has none (no such target, or values that are not finite).
    """
    along = _ALONG_TARGETS if source.kind in SCORED else _needed(material, source)
    row = {path: material.row(f"{source.leaf}/{path}", position) for path in _needed(material, source)}
    row |= {path: row[path][place : place + 1] for path in along if path in row}
    found = render(row, material.notes(source.leaf), material.subject["input_shape"])[source.path][0]
    target = int(row["target"][0])
    return Heatmap(found, target) if target >= 0 and np.isfinite(found).all() else None


def winners(material: Material, source: Source, position: int) -> np.ndarray:
    """Class that wins under each window of an image, in the order of the windows along each axis; -1 where unknown."""
    row = {path: material.row(f"{source.leaf}/{path}", position) for path in _needed(material, source)}
    return winning_classes(row, material.notes(source.leaf)["rendering"])


def window_edges(material: Material, source: Source, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Borders of the cells that windows stand for, down and across, in a picture of some size."""
    rendering, space = material.notes(source.leaf)["rendering"], material.subject["input_shape"][1:]
    sizes = (height, width)[-len(space) :]
    edges = [
        cell_edges(start, end, length, size)
        for start, end, length, size in zip(rendering["start"], rendering["end"], space, sizes, strict=True)
    ]
    return (np.array([0.0, height]), edges[0]) if len(edges) == 1 else (edges[0], edges[1])


def _sources(material: Material, leaf: str) -> list[Source]:
    notes = material.notes(leaf)
    kind = notes.get("rendering", {}).get("kind")
    if kind not in KINDS:
        return []
    key = leaf.partition("/")[2]
    stored = {path.removeprefix(f"{leaf}/") for path in material.store.arrays(leaf)}
    config: Mapping[str, Any] = notes.get("config", {})
    method = _SPELLED.get(key, key.replace("_", " ").capitalize())
    layers = [f"{layer}/{_ENDING}" for layer in reversed(material.layers_of(leaf, _ENDING))]
    paths = [_ENDING] if kind in SCORED or _ENDING in stored else []
    if kind == "windows":
        paths.append(WINNER)
    return [
        Source(
            leaf,
            path,
            method + (": winning class" if path == WINNER else ""),
            "" if path == WINNER else path.removesuffix(_ENDING).rstrip("/"),
            str(config.get("target", "predicted")),
            1 if path == WINNER else int(material.store[f"{leaf}/target"].shape[1]),
            bool(notes.get("signed", False)),
            kind,
            alignment_caveat(path, notes),
        )
        for path in [*paths, *layers]
    ]


def _needed(material: Material, source: Source) -> Sequence[str]:
    """Arrays that one map is rendered from; reading all of a leaf with many layers would take long."""
    stored = [path.removeprefix(f"{source.leaf}/") for path in material.store.arrays(source.leaf)]
    if source.kind in SCORED:
        n_image = len(material.image_ids)
        return [path for path in stored if material.store[f"{source.leaf}/{path}"].shape[:1] == (n_image,)]
    scale = source.path.removesuffix(_ENDING) + "scale"
    return [path for path in (source.path, scale, "target") if path in stored]
