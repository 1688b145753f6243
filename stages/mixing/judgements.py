"""Numbers, definitions and rows of the pairs of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..numerics.statistics import wilson
from ..specs import Measurement
from .agreement import FEWEST, Agreement
from .links import Links
from .pairs import CLOSE, HEAD, REPRESENTATION, SIGNALS, VERDICTS, Judged
from .separation import Separation

_COUNTED = (
    ("head_problems", HEAD, "confused by the head more often than by a cut halfway between their centroids"),
    ("representation_problems", REPRESENTATION, "confused and, by centroids or neighbors, mixed in the features too"),
    ("close_calls", CLOSE, "not confused, but by centroids or neighbors mixed in the features"),
)
_NAMES = {
    ("confusion", "separation"): "agreement_separation",
    ("confusion", "neighbors"): "agreement_neighbors",
    ("separation", "neighbors"): "agreement_inside",
}


def measurements(found: Judged, agreed: Sequence[Agreement]) -> tuple[Measurement, ...]:
    """How many pairs are in trouble, and whether the signals agree; nothing where no pair has enough images."""
    n = int(found.evidence.enough.sum())
    if not n:
        return ()
    counted = [
        Measurement(
            f"mixing/{name}", float(found.count(code)), "pairs", "lower", n, "mixing/verdict",
            f"Pairs of classes that are {what}; beyond chance, see docs/mixing.md.",
        )
        for name, code, what in _COUNTED
    ]  # fmt: skip
    return (*counted, *(_correlation(one) for one in agreed if not math.isnan(one.value)))


def _correlation(one: Agreement) -> Measurement:
    first, second = one.signals
    told = (
        f"Spearman's rank correlation of {first} and {second} over pairs of classes, each from the most mixed pair on; "
        "ties: mean rank; 95 % interval by leaving out classes."
    )
    name = f"mixing/{_NAMES[one.signals]}"
    return Measurement(name, one.value, "1", "higher", one.n, "mixing/value", told, one.low, one.high)


def unmeasured(found: Judged, agreed: Sequence[Agreement], min_support: int) -> dict[str, str]:
    """Why a number is not there."""
    if not found.evidence.enough.any():
        reason = f"no two classes have {min_support} images each (mixing.min_support)"
        return {f"mixing/{name}": reason for name in (*(name for name, _, _ in _COUNTED), *_NAMES.values())}
    reason = "fewer than three pairs, or a signal that is the same for all of them"
    return {f"mixing/{_NAMES[one.signals]}": reason for one in agreed if math.isnan(one.value)}


def definitions(compared: Mapping[str, Any], min_support: int, level: float) -> dict[str, str]:
    """What each number means."""
    where = f"features of {compared['layer']}"
    where += ", scaled to length 1" if compared["metric"] == "cosine" else ""
    return {
        "confusion": "Share of the two classes' images that are answered as the other one; 95 % interval by Wilson. "
        "Out of all their images that have a label and an answer.",
        "separation": "Distance of the two centroids, less what two samples of one distribution have on average, over "
        f"the pooled standard deviation along the line between them ({where}; Euclidean). 0: one place. Nearer: share "
        "of the two classes' images that lie nearer to the other centroid than to that of the others of their own; "
        "equally near ones count half.",
        "neighbors": f"Of the links from the two classes' images to their {compared['k']} nearest labelled others "
        f"({compared['metric']}), the share that ends in the other class, over what it would be if neighbors were "
        "drawn from all labelled images. 1: as many as by chance.",
        "stands out": "A signal stands out where more of the pair's images are confused (lie nearer, have such "
        "neighbors) than the share of all other pairs together explains, and than one image explains: exact binomial "
        f"test, at most {100 * level:g} % false ones among those named (Benjamini-Hochberg). Confusion and separation "
        "do so, too, where they are not proved better than guessing between the two.",
        "verdicts": "Head problem: confusion stands out, and more images are confused by the head alone than by the "
        "centroids alone (sign test). Representation problem: confusion stands out, and so does a signal from inside. "
        "Close: only a signal from inside stands out. Apart: none does. Inconclusive: only confusion stands out and "
        f"the head is not proved wrong, or a class has fewer than {min_support} images.",
        "agreement": "Spearman's rank correlation over pairs; the interval leaves out classes in turn with all of "
        f"their pairs (none for fewer than {FEWEST} classes).",
    }


def largest(found: Judged) -> list[float]:
    """Largest finite value of each signal over all pairs; 0 where there is none."""
    value = found.evidence.value
    return np.where(np.isfinite(value), value, 0).max(axis=0, initial=0).tolist()


def pair_rows(
    found: Judged, first: Int[np.ndarray, " shown"], matrix: np.ndarray, inside: Separation, near: Links
) -> list[dict[str, Any]]:
    """The first pairs with their counts and bounds, for the report; null is unknown."""
    return [_row(found, int(at), matrix, inside, near) for at in first]


def _row(found: Judged, at: int, matrix: np.ndarray, inside: Separation, near: Links) -> dict[str, Any]:
    known = found.evidence
    a, b = int(known.first[at]), int(known.second[at])
    images = known.images[at]
    taken = int(known.hits[at, 0])
    crossed = [_known(inside.crossed[a, b]), _known(inside.crossed[b, a])]
    return {
        "classes": [a, b],
        "verdict": VERDICTS[found.verdict[at]],
        "enough": bool(known.enough[at]),
        "speaks": [signal for signal, on in zip(SIGNALS, found.speaks[at], strict=True) if on],
        "taken": [int(matrix[a, b]), int(matrix[b, a])],
        "bounds": [_known(bound) for bound in wilson(taken, int(images[0]))],
        "crossed": crossed,
        "crossed_share": _known(known.hits[at, 1] / images[1]) if images[1] else None,
        "links": [int(near.count[a, b]), int(near.count[b, a])],
        "link_share": _known(near.share[a, b]),
        "link_chance": _known(near.chance[a, b]),
        "typical": [_known(value) for value in found.typical[at]],
        "images": [int(n) for n in images],
        "head_only": _known(known.head_only[at]),
        "features_only": _known(known.features_only[at]),
    }


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
