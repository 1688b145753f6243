"""Numbers, findings and notes of the patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..receptive_fields.boxes import STATUS
from ..specs import Finding, Measurement
from .choice import Tops
from .selectivity import DEFINITION

#: A preference that chance would make in at most this share of all channels counts.
CHANCE = 0.01
# What rounding can leave of a gradient where nothing flows.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Shown:
    """One layer and what is shown of it.

    Parameters
    ----------
    tops
        The layer.
    channels
        Channels that are shown, in the order in which they came first.
    missed
        Channels that were asked for by name and are not shown.
    outside
        Share of each projection that lies outside of its receptive field; NaN where that is not known, or the
        projection is not finite. Shape ``(channel, rank, rule)``.
    finite
        Whether each projection is finite. Shape ``(channel, rank, rule)``.
    fields
        Status of the receptive field of each channel that is shown.
    """

    tops: Tops
    channels: tuple[int, ...]
    missed: tuple[int, ...]
    outside: np.ndarray
    finite: np.ndarray
    fields: tuple[str, ...]


def measurements(layers: Sequence[Shown], cosine: np.ndarray, stem: str) -> tuple[Measurement, ...]:
    """Class-selective channels, gradients outside of their field, and filters like their patches.

    Parameters
    ----------
    layers
        What is shown.
    cosine
        Of each filter of the first convolution and the patch that excites it most.
    stem
        Name of that convolution.
    """
    found = [_selective(layers)]
    outside = np.concatenate([np.zeros(0), *(layer.outside.ravel() for layer in layers)])
    outside = outside[np.isfinite(outside)]
    if len(outside):
        told = "Largest share of a projection's magnitude outside of the receptive field that theory gives its unit."
        worst = float(outside.max())
        found.append(
            Measurement("patches/outside_field", worst, "1", "lower", len(outside), "patches/*/projection", told)
        )
    measured = cosine[np.isfinite(cosine)]
    if len(measured):
        told = "Median over the filters of the first convolution of the cosine between filter and the patch that "
        told += "excites it most, neither centred."
        path = f"patches/{stem}/cosine"
        value = float(np.median(measured))
        found.append(Measurement("patches/first_layer_cosine", value, "1", "neither", len(measured), path, told))
    return tuple(found)


def _selective(layers: Sequence[Shown]) -> Measurement:
    chance = np.concatenate([np.zeros(0), *(layer.tops.selectivity.chance for layer in layers)])
    chance = chance[np.isfinite(chance)]
    return Measurement(
        "patches/selective_fraction",
        float((chance <= CHANCE).mean()) if len(chance) else math.nan,
        "1",
        "neither",
        len(chance),
        "patches/*/chance",
        f"Share of channels whose most exciting images prefer a class; chance alone would give at most {CHANCE:g}.",
    )


def findings(layers: Sequence[Shown], rules: Sequence[str], has_relu: bool, total: int) -> tuple[Finding, ...]:
    """Gradients where no field is, layers without a place in the image, and what could not be shown."""
    found = [finding for layer in layers for finding in (*_not_finite(layer), *_outside(layer))]
    lost = [layer.tops.layer.name for layer in layers if "unknown" in layer.fields]
    if lost:
        found.append(
            Finding(
                "patches/fields-unknown",
                "info",
                f"In {len(lost)} of {len(layers)} layers it is not known what part of the image a unit sees",
                f"There the whole image is shown, not cropped: {', '.join(lost[:12])}. What next: the section on "
                "receptive fields says why.",
            )
        )
    found += [finding for layer in layers for finding in _missed(layer, total)] + _without(layers, total)
    if rules and not has_relu:
        found.append(
            Finding(
                "patches/no-relu",
                "info",
                "There are patches but no projections: the network has no ReLU",
                f"{' and '.join(rules).capitalize()} say how a signal passes a ReLU on its way back; without one both "
                "would be the plain gradient.",
            )
        )
    return tuple(found)


def _not_finite(layer: Shown) -> list[Finding]:
    broken = ~layer.finite
    lost = np.asarray(broken.any(axis=(1, 2)))
    odd = [channel for channel, one in zip(layer.channels, lost, strict=False) if one]
    if not odd:
        return []
    return [
        Finding(
            "patches/projection-not-finite",
            "warning",
            f"{int(broken.sum())} projections of {len(odd)} channels of {layer.tops.layer.name} are not finite",
            "On the way back to the image the gradient overflowed or became NaN: nothing is drawn there, and whether "
            "it stays within the receptive field is not judged. What next: look for huge weights or activations in "
            "front of this layer; a wider numerics.dtype may carry them.",
            layer=layer.tops.layer.name,
            channels=tuple(odd),
        )
    ]


def _outside(layer: Shown) -> list[Finding]:
    # What is not finite, or has no field to be held against, is told elsewhere.
    worst = np.where(np.isnan(layer.outside), 0.0, layer.outside).max(axis=(1, 2), initial=0.0)
    odd = [channel for channel, share in zip(layer.channels, worst, strict=False) if share > _ROUNDING]
    if not odd:
        return []
    return [
        Finding(
            "patches/outside-field",
            "error",
            f"{len(odd)} channels of {layer.tops.layer.name} see more of the image than their receptive field",
            f"Up to {100 * worst.max():.3g} % of a projection lies outside of the field that was worked out from the "
            "network's operations, so that the crops are wrong. What next: report the network; until then trust "
            "neither fields nor crops of this layer.",
            layer=layer.tops.layer.name,
            channels=tuple(odd),
        )
    ]


def notes(layers: Sequence[Shown], rules: Sequence[str], cosine: str, left_out: int, total: int) -> dict[str, Any]:
    """What is shown of each layer, and what the budget left out.

    Parameters
    ----------
    layers
        What is shown.
    rules
        How projections were made.
    cosine
        Why the first convolution has no cosines; empty where it has.
    left_out
        Channels that were excited and are not shown.
    total
        Most channels over all layers.
    """
    units = sum(int(layer.tops.shows[list(layer.channels)].sum()) for layer in layers)
    return {
        "status": "measured" if units else "nothing excited any channel",
        "n": units,
        "rules": list(rules),
        "layers": [_row(layer) for layer in layers],
        "left_out": f"{left_out} excited channels have no patches (patches.channels, patches.total: {total} in all)"
        if left_out
        else "",
        "layers_left_out": _left_out(layers),
        "outside_field": _judged(layers, len(rules)),
        "class_selectivity": DEFINITION,
        "first_layer_cosine": cosine,
        "projection": "The gradient of one unit, at one position in one image, by the input, with every ReLU passing "
        "it by the rule; scaled by its own largest magnitude.",
    }


def _missed(layer: Shown, total: int) -> list[Finding]:
    excited = np.asarray(layer.tops.shows.any(1))
    name, found = layer.tops.layer.name, []
    if silent := tuple(channel for channel in layer.missed if not excited[channel]):
        title = f"{len(silent)} channels of {name} asked for by name were never excited"
        told = "No image drives them above zero, so there is no patch. What next: see them in the filter table."
        found.append(Finding("patches/never-excited", "info", title, told, layer=name, channels=silent))
    if crowded := tuple(channel for channel in layer.missed if excited[channel]):
        title = f"{len(crowded)} channels of {name} asked for by name have no patches: the budget is too small"
        told = f"patches.total is {total} channels in all. What next: raise it, or patches.channels, or ask for fewer."
        found.append(Finding("patches/asked-left-out", "warning", title, told, layer=name, channels=crowded))
    return found


def _without(layers: Sequence[Shown], total: int) -> list[Finding]:
    """Layers that have excited channels, none of which is shown."""
    names = _left_out(layers)
    if not names:
        return []
    return [
        Finding(
            "patches/layers-left-out",
            "warning",
            f"{len(names)} of {len(layers)} layers have no patches: the budget is too small",
            f"patches.total is {total} channels in all: layers with channels asked for by name come first, the others "
            f"are spread over the depth. Without patches: {', '.join(names)}. What next: raise patches.total to "
            f"{len(layers)} or more, or choose fewer layers in patches.layers.",
        )
    ]


def _left_out(layers: Sequence[Shown]) -> list[str]:
    return [layer.tops.layer.name for layer in layers if not layer.channels and layer.tops.shows.any()]


def _judged(layers: Sequence[Shown], rules: int) -> str:
    """How many projections were held against their receptive field, and why the others were not."""
    if not rules:
        return "not measured: there are no projections"
    by_field = {status: rules * sum(_units(layer, status) for layer in layers) for status in STATUS}
    n = sum(int(np.isfinite(layer.outside).sum()) for layer in layers)
    reasons = {
        "whose field is not known": by_field["unknown"],
        "whose field is the whole image, where nothing can lie outside": by_field["whole"],
        "that are not finite": by_field["exact"] - n,
    }
    left = [f"{count} {why}" for why, count in reasons.items() if count]
    return f"measured for {n} projections" + (f"; not for {', '.join(left)}" if left else "")


def _units(layer: Shown, status: str) -> int:
    mine = [channel for channel, field in zip(layer.channels, layer.fields, strict=True) if field == status]
    return int(layer.tops.shows[mine].sum())


def _row(layer: Shown) -> dict[str, Any]:
    chance = layer.tops.selectivity.chance
    return {
        "name": layer.tops.layer.name,
        "channels": layer.tops.layer.shape[0],
        "never_excited": int((~layer.tops.shows.any(1)).sum()),
        "shown": list(layer.channels),
        "flagged": [channel for channel in layer.channels if layer.tops.flagged[channel]],
        "fields": list(layer.fields),
        "selective": int((chance[np.isfinite(chance)] <= CHANCE).sum()),
    }
