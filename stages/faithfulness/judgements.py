"""From rows of many images to averages with bounds, a verdict on each heatmap, and findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..specs import Direction, Finding, Measurement
from .curves import area

#: Fewer images say too little.
_FEWEST = 8
_Z = 1.96


@dataclass(frozen=True)
class Mean:
    """An average over images, with 95 % bounds.

    Parameters
    ----------
    value
        NaN without images.
    low, high
        Value minus and plus 1.96 standard errors; None for fewer than two images.
    n
        Images that it was measured on.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def mean_of(values: Float[np.ndarray, " image"]) -> Mean:
    """Average what was measured; NaN takes no part."""
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Mean(float(found[0]) if len(found) else math.nan, None, None, len(found))
    value, half = float(found.mean()), _Z * float(found.std(ddof=1)) / math.sqrt(len(found))
    return Mean(value, value - half, value + half, len(found))


def randomisation_verdict(similarity: Mean, limit: float) -> str:
    """Say whether a heatmap has survived the loss of the weights.

    Parameters
    ----------
    similarity
        Mean rank correlation between the heatmaps of the trained network and of one with random weights. A correlation
        far below zero says as well that the heatmap depends on the image rather than the weights.
    limit
        From which size of the mean on it has survived.

    Returns
    -------
    str
        ``"passes"``: the upper bound of the mean's size lies below `limit`; ``"fails"``: the lower bound does not;
        ``"inconclusive"``: the bounds straddle it, or there are fewer than 8 images; ``"not measured"`` without any.
    """
    if similarity.n == 0:
        return "not measured"
    if similarity.n < _FEWEST or similarity.low is None or similarity.high is None:
        return "inconclusive"
    half = (similarity.high - similarity.low) / 2
    if abs(similarity.value) + half < limit:
        return "passes"
    return "fails" if abs(similarity.value) - half >= limit else "inconclusive"


def against_chance(difference: Mean, lower_is_better: bool) -> str:
    """Say whether a curve is ``"better"``, ``"worse"`` or ``"no different"`` than chance; by the bounds of the mean."""
    if difference.low is None or difference.high is None or difference.n < _FEWEST:
        return "not measured"
    if difference.high < 0:
        return "better" if lower_is_better else "worse"
    if difference.low > 0:
        return "worse" if lower_is_better else "better"
    return "no different"


def decisive(levels: Sequence[Mean]) -> int | None:
    """The level of randomisation that a method is judged by: the most similar but for the first; None without any.

    adebayo2018 judges cascades by eye; this is the rule that we put in its place. With the layer of the logits alone
    random, a heatmap still knows the features, and loses no more than the class; from a quarter of all layers on
    nothing that the network has learned is left of its answer, and a heatmap that stays is not about the answer.
    """
    counted = [place for place, level in enumerate(levels) if level.n and (place or len(levels) == 1)]
    return max(counted, key=lambda place: abs(levels[place].value)) if counted else None


@dataclass(frozen=True)
class Judged:
    """One heatmap path of a method.

    Parameters
    ----------
    path
        Array path inside the leaf of `attributions`.
    means
        By quantity: deletion, insertion, chance_deletion, chance_insertion, gain_deletion, gain_insertion (minus
        chance), similarity, ssim, sensitivity, pointing, inside, overlap.
    levels
        Rank correlation at each level of randomisation.
    verdict
        Of `randomisation_verdict`.
    images
        Positions with the most similar heatmaps under random weights, most similar first.
    still
        Whether no noise changed any of its heatmaps.
    """

    path: str
    means: Mapping[str, Mean]
    levels: tuple[Mean, ...]
    verdict: str
    images: tuple[int, ...]
    still: bool

    def chance(self, way: str) -> str:
        """How deletion or insertion compares with chance."""
        return against_chance(self.means[f"gain_{way}"], way == "deletion")


def judge(rows: Mapping[str, np.ndarray], counts: Int[np.ndarray, " step"], place: int, limit: float) -> Judged:
    """Average and judge what was measured of one heatmap.

    Parameters
    ----------
    rows
        One row per image, by name; see `convaudit.stages.faithfulness.measures.measure`.
    counts
        Positions replaced at each point of a curve.
    place
        Which of the method's heatmaps.
    limit
        See `randomisation_verdict`.
    """
    means = {}
    for way in ("deletion", "insertion"):
        own, chance = area(rows[way][:, place], counts), area(rows[f"chance_{way}"], counts)
        chance = np.where(np.isfinite(own), chance, np.nan)
        means |= {way: mean_of(own), f"chance_{way}": mean_of(chance), f"gain_{way}": mean_of(own - chance)}
    used = len(rows["level_modules"])
    levels = tuple(mean_of(rows["randomisation"][:, place, level]) for level in range(used))
    level = decisive(levels)
    nothing = mean_of(np.empty(0))
    means["similarity"] = nothing if level is None else levels[level]
    means["ssim"] = nothing if level is None else mean_of(rows["ssim"][:, place, level])
    means |= {name: mean_of(rows[name][:, place]) for name in ("sensitivity", "pointing", "inside", "overlap")}
    images: tuple[int, ...] = ()
    if levels:
        # Where it was not measured, an image is no example.
        similar = np.nan_to_num(np.abs(rows["randomisation"][:, place, used > 1 : used]), nan=-1.0).max(axis=1)
        images = tuple(map(int, rows["image"][np.lexsort((rows["image"], -similar))][:_FEWEST]))
    verdict = randomisation_verdict(means["similarity"], limit)
    moved = rows["sensitivity"][:, place]
    # Where nothing could be measured, nothing is said.
    still = bool(np.isfinite(moved).any() and not moved[np.isfinite(moved)].any())
    return Judged(str(rows["maps"][place]), means, levels, verdict, images, still)


_MEANINGS: dict[str, tuple[Direction, str]] = {
    "deletion": (
        "lower",
        "Area under the target's probability as the positions ranked highest are removed first; mean over images.",
    ),
    "insertion": (
        "higher",
        "Area under the target's probability as the positions ranked highest come back first into the blurred image; "
        "mean over images.",
    ),
    "gain_deletion": ("lower", "Deletion minus that of a random order on the same image; mean over images."),
    "gain_insertion": ("higher", "Insertion minus that of a random order on the same image; mean over images."),
    "similarity": (
        "lower",
        "Spearman's rank correlation of the magnitudes of the heatmap with those under random weights, for the class "
        "that the trained network gave; mean over images, at the most similar level from a quarter of the layers on.",
    ),
    "ssim": (
        "lower",
        "Structural similarity (SSIM) of the same heatmaps at the same level; mean over images. Maps of little but "
        "zeros are alike by it whatever they show: the rank correlation decides.",
    ),
    "sensitivity": (
        "lower",
        "Largest relative change of the heatmap (Euclidean) under a few draws of small noise; mean over images.",
    ),
    "pointing": (
        "higher",
        "Share of images whose largest heatmap value lies in their box or mask, or within the tolerance beside it.",
    ),
    "inside": ("higher", "Share of the evidence for the target that lies in the box or mask; mean over images."),
    "overlap": ("higher", "Intersection over union of Otsu's mask of the heatmap with the box or mask; mean."),
}
_PATHS = {"gain_deletion": "deletion", "gain_insertion": "insertion", "similarity": "randomisation"}


def measurements(leaf: str, judged: Sequence[Judged]) -> tuple[Measurement, ...]:
    """Every average that was measured, named after the leaf and, where a method has several heatmaps, the layer."""
    found = []
    for row in judged:
        layer = row.path.rpartition("/")[0]
        start = f"{leaf}/{layer}" if layer and len(judged) > 1 else leaf
        for name, (direction, meaning) in _MEANINGS.items():
            mean = row.means[name]
            if mean.n:
                path = f"{leaf}/{_PATHS.get(name, name)}"
                bounds = {"low": mean.low, "high": mean.high}
                found.append(
                    Measurement(f"{start}/{name}", mean.value, "1", direction, mean.n, path, meaning, **bounds)
                )
    return tuple(found)


def findings(leaf: str, judged: Sequence[Judged], limit: float) -> tuple[Finding, ...]:
    """Heatmaps that do not depend on the weights, and such that point out what the answer does not rest on."""
    method = leaf.partition("/")[2]
    found = []
    for row in judged:
        name = f"{method} ({row.path.rpartition('/')[0]})" if "/" in row.path else method
        if row.verdict == "fails":
            found.append(_fails(name, row, limit))
        if row.means["sensitivity"].n and row.still:
            found.append(_ignores(name, row))
        if row.chance("deletion") != "better" and row.chance("insertion") != "better":
            found.extend(_no_better(name, row))
    return tuple(found)


def _fails(name: str, row: Judged, limit: float) -> Finding:
    mean = row.means["similarity"]
    return Finding(
        "faithfulness/fails-randomisation",
        "warning",
        f"{name} shows much the same with random weights",
        f"With a quarter of the layers or more drawn anew, the heatmaps still correlate by rank with those of the "
        f"trained network: {mean.value:.2f} on average over {mean.n} images (95 %: {mean.low:.2f} to {mean.high:.2f}), "
        f"expected below {limit}. They tell of the image, not of what the network has learned: do not explain "
        "decisions with them.",
        row.images,
    )


def _ignores(name: str, row: Judged) -> Finding:
    return Finding(
        "faithfulness/ignores-the-image",
        "warning",
        f"{name} does not change with the image at all",
        f"Under noise the heatmaps of all {row.means['sensitivity'].n} images stayed the same to the last bit. They "
        "depend on the class alone, as those of a deconvnet without max pooling do: do not explain an image with them.",
    )


def _no_better(name: str, row: Judged) -> list[Finding]:
    said = {way: row.chance(way) for way in ("deletion", "insertion")}
    if "not measured" in said.values():
        return []
    numbers = "; ".join(
        f"{way} {row.means[way].value:.3f}, chance {row.means[f'chance_{way}'].value:.3f} ({said[way]})" for way in said
    )
    return [
        Finding(
            "faithfulness/no-better-than-chance",
            "warning" if set(said.values()) == {"worse"} else "info",
            f"{name} ranks positions no better than a random order",
            f"{numbers}; n = {row.means['deletion'].n}. Deletion is expected below chance and insertion above it. "
            "Where the probability stays high to the end, the baseline does not remove what the network looks at: try "
            "another faithfulness.removed.",
        )
    ]


def notes(judged: Sequence[Judged], rows: Mapping[str, np.ndarray], grain: str, limit: float) -> dict[str, Any]:
    """What the report shows beside every heatmap and in the section of this stage."""
    order = ("fails", "inconclusive", "not measured", "passes")
    verdicts = [row.verdict for row in judged]
    return {
        "randomisation": min(verdicts, key=order.index) if verdicts else "not measured",
        "maps": {row.path: _told(row) for row in judged},
        "levels": [
            {"modules": int(count), "down_to": str(last)}
            for count, last in zip(rows["level_modules"], rows["level_last"], strict=True)
        ],
        "parameters_never_random": int(rows["level_elsewhere"][0]),
        "chance": grain,
        "limit": limit,
        "n": len(rows["image"]),
    }


def _told(row: Judged) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: None if math.isnan(mean.value) else round(mean.value, 6) for name, mean in row.means.items()
    }
    told["bounds"] = {name: [mean.low, mean.high] for name, mean in row.means.items() if mean.low is not None}
    told["levels"] = [None if math.isnan(mean.value) else round(mean.value, 6) for mean in row.levels]
    told |= {
        "randomisation": row.verdict,
        "against_chance": {way: row.chance(way) for way in ("deletion", "insertion")},
    }
    return told
