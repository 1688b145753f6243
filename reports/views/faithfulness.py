"""Whether the heatmaps are to be believed, method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import figures
from ..album import Album
from ..material import Material

TITLE = "Faithfulness"
QUESTION = "Do the heatmaps tell what the network uses, or only what the image looks like?"
_WIDTH, _HEIGHT = 80.0, 18.0
_STATES = {"passes": "PASS", "fails": "WARN"}


@dataclass(frozen=True)
class Curve:
    """Deletion or insertion: the area, that of a random order, and how the two compare."""

    value: float | None
    chance: float | None
    said: str


@dataclass(frozen=True)
class Tried:
    """One heatmap of one method.

    Parameters
    ----------
    method, layer
        Whose it is; the layer is empty where there is one heatmap alone.
    state, verdict
        Outcome of parameter randomisation, as a state of `parts.html.j2` (empty for none) and as a word.
    similarity, ssim
        The rank correlation that decides, and the structural similarity of the same heatmaps.
    spark, spark_alt
        Rank correlation by level as a path, and in words.
    deletion, insertion
        Curves against chance.
    sensitivity
        Largest relative change under small noise.
    region
        Pointing, evidence inside and overlap, where the data have boxes or masks.
    n
        Images.
    """

    method: str
    layer: str
    state: str
    verdict: str
    similarity: float | None
    ssim: float | None
    spark: str
    spark_alt: str
    deletion: Curve
    insertion: Curve
    sensitivity: float | None
    region: tuple[float | None, ...]
    n: int


@dataclass(frozen=True)
class FaithfulnessView:
    """Every heatmap that was tried, those that fail first.

    Parameters
    ----------
    rows
        The table.
    limit
        Height of the line from which on a method fails, in user units of the small charts.
    levels
        What is random at each level, in words.
    regions
        Whether any image had a box or mask.
    untried
        Methods that no image could be tried on.
    definitions
        Words of the table and what they mean.
    """

    rows: tuple[Tried, ...]
    limit: float
    levels: str
    regions: bool
    untried: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]


def view(material: Material, album: Album) -> FaithfulnessView:
    """Gather what the section shows; it has no pictures."""
    del album
    rows: list[Tried] = []
    untried, limit, levels = [], 0.5, ""
    for leaf in material.leaves("faithfulness"):
        notes = material.notes(leaf)
        method = leaf.partition("/")[2]
        if not material.has(leaf):
            continue
        if not notes.get("maps"):
            untried.append(method)
            continue
        limit = float(notes["limit"])
        levels = max(levels, _levels(notes["levels"]), key=len)
        several = len(notes["maps"]) > 1
        for path, told in notes["maps"].items():
            layer = str(path).rpartition("/")[0] if several else ""
            rows.append(_tried(method, layer, told, int(notes["n"])))
    order = ("fails", "inconclusive", "not measured", "passes")
    rows.sort(key=lambda row: (order.index(row.verdict), row.method))
    regions = any(value is not None for row in rows for value in row.region)
    return FaithfulnessView(
        tuple(rows), round(_place(limit), 1), levels, regions, tuple(untried), _definitions(limit, regions)
    )


def _tried(method: str, layer: str, told: Mapping[str, Any], n: int) -> Tried:
    curves = [
        Curve(told.get(way), told.get(f"chance_{way}"), _against(told["against_chance"][way]))
        for way in ("deletion", "insertion")
    ]
    return Tried(
        method=method,
        layer=layer,
        state=_STATES.get(told["randomisation"], ""),
        verdict=told["randomisation"],
        similarity=told.get("similarity"),
        ssim=told.get("ssim"),
        spark=_line(told["levels"]),
        spark_alt="Rank correlation by level: " + ", ".join(figures.number(value) for value in told["levels"]),
        deletion=curves[0],
        insertion=curves[1],
        sensitivity=told.get("sensitivity"),
        region=tuple(told.get(name) for name in ("pointing", "inside", "overlap")),
        n=n,
    )


def _against(said: str) -> str:
    return "" if said == "not measured" else f"{said} {'from' if said == 'no different' else 'than'} chance"


def _line(levels: Sequence[float | None]) -> str:
    """From 1, the heatmap itself, down the levels; the height is the size of the correlation, 0 to 1."""
    values = [1.0, *levels]
    step = (_WIDTH - 4) / max(1, len(values) - 1)
    parts, pen = [], "M"
    for at, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{figures.coordinate(2 + at * step)} {figures.coordinate(_place(abs(value)))}")
        pen = "L"
    return "".join(parts)


def _place(value: float) -> float:
    return _HEIGHT - 2 - (_HEIGHT - 4) * value


def _levels(levels: Sequence[Mapping[str, Any]]) -> str:
    said = [f"{level['modules']} (down to {level['down_to']})" for level in levels]
    return ", ".join(said)


def _definitions(limit: float, regions: bool) -> tuple[tuple[str, str], ...]:
    words = [
        (
            "Random weights",
            "The network's layers are drawn anew, from the logits down, and the heatmap is made again for the class "
            "that the trained network gave. The chart shows how much of the ranking of positions remains (rank "
            "correlation of magnitudes, 1 at the left). A method passes when from a quarter of the layers on the mean "
            f"lies below {figures.short(limit)} with its 95 % bounds; one that fails shows the image, not what the "
            "network has learned. SSIM, the structural similarity that the test's authors used as well, stands beside; "
            "maps of little but zeros are alike by it whatever they show.",
        ),
        (
            "Deletion",
            "The positions the heatmap ranks highest are removed first; the number is the area under the probability "
            "of the class. Low is good: what was marked was needed. Chance is a random order of the same grain: "
            "scattered positions for fine heatmaps, coherent patches for coarse ones. Compare within a grain, not "
            "across.",
        ),
        (
            "Insertion",
            "The same positions come back first into a blurred image. High is good: what was marked is enough.",
        ),
        (
            "Noise",
            "Largest relative change of the heatmap when the image changes by next to nothing. 0 means that it does "
            "not look at the image at all; above 1 that the change is larger than the heatmap.",
        ),
    ]
    if regions:
        words.append(
            (
                "Pointing, inside, overlap",
                "Share of images whose largest heatmap value lies in the box or mask, or within the tolerance beside "
                "it (faithfulness.tolerance; 3 % of the longest axis unless set); share of the evidence for the class "
                "inside; intersection over union of the thresholded heatmap with the box or mask.",
            )
        )
    return tuple(words)
