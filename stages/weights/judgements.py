"""Numbers and notes of the audit of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..specs import Measurement
from .audit import Audit, LayerAudit


def measurements(audit: Audit) -> tuple[Measurement, ...]:
    """How many layers and filters are flagged; NaN where none could be judged."""
    standard, judged = audit.limits.standard, audit.judged
    with_spectrum = [layer for layer in audit.layers if layer.has_spectrum]
    with_twins = [layer for layer in audit.layers if layer.judges_twins]
    known, limits = audit.finite and bool(audit.layers), audit.limits
    return (
        _count(
            "noise_layers",
            "layers",
            len(audit.with_verdict("noise")) if known and judged else math.nan,
            len(judged),
            "layers/verdict",
            f"How many of {len(judged)} convolutions with planes enough have a Moran's I that independent weights "
            f"would have too: not beyond chance at {standard.level:g}, and surely within {standard.effect:g} of it.",
        ),
        _count(
            "unstructured_layers",
            "layers",
            len(audit.without_spikes) if known and with_spectrum else math.nan,
            len(with_spectrum),
            "layers/spikes",
            f"How many of {len(with_spectrum)} convolutions with singular values enough have none above both the "
            "Marchenko-Pastur edge (Tracy-Widom, 1 %) and the largest of the shuffled weights.",
        ),
        _count(
            "near_zero_count",
            "filters",
            sum(int((layer.near_zero > 0).sum()) for layer in audit.layers) if known else math.nan,
            audit.n_channel,
            "layers/near_zero",
            f"How many filters have a norm, or a scale of the norm behind them, of at most {limits.near_zero:g} of "
            "the largest in their layer.",
        ),
        _count(
            "duplicate_count",
            "filters",
            sum(int(layer.duplicate.sum()) for layer in with_twins) if known and with_twins else math.nan,
            sum(len(layer.norm) for layer in with_twins),
            "layers/duplicates",
            f"How many filters have a cosine beyond ±{limits.duplicate:g} to another that reads the same channels, in "
            "layers where chance gives less than one such pair in twenty layers.",
        ),
    )


def _count(name: str, unit: str, value: float, n: int, path: str, meaning: str) -> Measurement:
    return Measurement(f"weights/{name}", float(value), unit, "lower", n, f"weights/{path}", meaning)


def notes(audit: Audit, text: Mapping[str, Any]) -> dict[str, Any]:
    """The table of layers, what was said of each convolution, and how."""
    told = {layer.layer.name: layer for layer in audit.layers}
    rows = [row | ({"audit": _note(told[row["name"]])} if row["name"] in told else {}) for row in text["table"]]
    listed = sum(row["parameters"] for row in rows)
    found = {
        "table": rows,
        "lineage": text["lineage"],
        "first_convolution": audit.layers[0].layer.name,
        "parameters": text["parameters"],
        "simulated_filters_for_each_p": audit.limits.simulations,
        "limits": {"near_zero": audit.limits.near_zero, "duplicate": audit.limits.duplicate},
    }
    if text["parameters"] != listed:
        found["parameters_outside_of_listed_layers"] = text["parameters"] - listed
    if text["reason"]:
        found["neighbours_of_channels_unknown"] = text["reason"]
    return found


def _note(layer: LayerAudit) -> dict[str, Any]:
    said, values = layer.smoothness, layer.spectrum
    numbers = {
        "moran": said.mean,
        "chance": said.chance,
        "low": said.low,
        "high": said.high,
        "p": said.p,
        "top": values.top,
        "edge": values.edge,
        "shuffled": values.shuffled,
        "near_zero_by_chance": layer.by_chance[0],
        "duplicates_by_chance": layer.by_chance[1],
    }
    return {
        "verdict": said.verdict,
        "reason": said.reason,
        "planes": said.planes,
        "needed": said.needed,
        "smooth": said.smooth,
        "filters": said.filters,
        "near_zero": int((layer.near_zero > 0).sum()),
        "duplicates": int(layer.duplicate.sum()) if layer.judges_twins else None,
        "spikes": values.spikes if layer.has_spectrum else None,
        "values": values.values,
    } | {key: value if math.isfinite(value) else None for key, value in numbers.items()}
