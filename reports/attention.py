"""Which layers want a look first: what the findings say of them, and how many of their channels are in trouble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import findings
from .figures import number
from .material import Material

#: Findings of one layer that are told by name.
_REASONS = 3


@dataclass(frozen=True)
class LayerNews:
    """Why one layer deserves attention.

    Parameters
    ----------
    layer, anchor
        Its name, and its place in the walk.
    severity
        Of its gravest finding; empty where only single channels are in trouble.
    reasons
        Titles of its gravest findings, then its channels in trouble by kind.
    share
        Share of its channels in trouble.
    """

    layer: str
    anchor: str
    severity: str
    reasons: tuple[str, ...]
    share: float


def anchor(material: Material, layer: str) -> str:
    """Place of a layer in the walk."""
    return f"layer-{material.layer_order[layer]}"


def news(material: Material) -> tuple[LayerNews, ...]:
    """All layers with a finding or a channel in trouble, the most urgent first, equals in the order of the network."""
    told: dict[str, list[tuple[str, str]]] = {}
    for _, finding in findings.gather(material):
        if finding.layer in material.layer_order:
            told.setdefault(finding.layer, []).append((finding.severity, finding.title))
    counts = troubled(material)
    names = [name for name in material.layer_order if name in told or (name in counts and counts[name][1])]
    rows = [_news(material, name, told.get(name, []), counts.get(name, (0, {}))) for name in names]
    grave = (*findings.SEVERITIES, "")
    return tuple(sorted(rows, key=lambda row: (grave.index(row.severity), -row.share)))


def troubled(material: Material) -> dict[str, tuple[int, dict[str, int]]]:
    """Channels of each layer that were audited, and how many of them are in which trouble."""
    if not material.has("filters"):
        return {}
    notes = material.notes("filters")
    names, words = [str(name) for name in notes["layers"]], [str(word) for word in notes["troubles"]]
    layer, trouble = material.array("filters/layer").astype(int), material.array("filters/trouble").astype(int)
    # Where a ReLU tells the same as the convolution in front of it, it is told once.
    trouble = np.where(material.array("filters/repeated") == 1, 0, trouble)
    found = {}
    for place, name in enumerate(names):
        own = trouble[layer == place]
        counts = np.bincount(own[own > 0], minlength=len(words))
        found[name] = (len(own), {word: int(n) for word, n in zip(words, counts, strict=True) if n})
    return found


def _news(material: Material, name: str, told: list[tuple[str, str]], counts: tuple[int, dict[str, int]]) -> LayerNews:
    channels, kinds = counts
    reasons = [title for _, title in told[:_REASONS]]
    if len(told) > _REASONS:
        reasons.append(f"{number(len(told) - _REASONS)} more findings")
    if kinds:
        listed = ", ".join(f"{number(n)} {word.replace('_', ' ')}" for word, n in kinds.items())
        reasons.append(f"of {number(channels)} channels: {listed}")
    severity = told[0][0] if told else ""
    share = sum(kinds.values()) / channels if channels else 0.0
    return LayerNews(name, anchor(material, name), severity, tuple(reasons), share)
