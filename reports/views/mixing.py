"""Which pairs of classes mix, in the answers and in the features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import figures
from ..album import Album, Frame
from ..material import Material
from ..scattered import Scatter, scatter
from .provenance import Fact

TITLE = "Mixing"
QUESTION = "Which classes does the network mix, and is that the features' doing or the last layer's?"
_SHOWN = 4_000
#: By code: word, icon, and how the scatter draws it.
_VERDICTS = (
    ("apart", "pass", "dot", "cloud big-dot"),
    ("close", "warn", "ring", "mark line"),
    ("representation problem", "error", "square", "mark wrong"),
    ("head problem", "fail", "cross", "ring"),
    ("inconclusive", "info", "cross", "cloud"),
)
_CODES = {"apart": 0, "close": 1, "representation": 2, "head": 3, "inconclusive": 4}


@dataclass(frozen=True)
class Example:
    """A picture of one class, and what makes it an example."""

    frame: Frame | None
    image: str
    text: str


@dataclass(frozen=True)
class Number:
    """One signal of a pair: value, what it rests on, its rank, and a bar in per cent with its bounds."""

    text: str
    detail: str
    rank: str
    bar: float
    low: float = 0.0
    width: float = 0.0
    loud: bool = False


@dataclass(frozen=True)
class PairRow:
    """Two classes, verdict, the three signals, the joint rank, and examples."""

    names: tuple[str, str]
    verdict: str
    icon: str
    numbers: tuple[Number, Number, Number]
    joint: str
    examples: tuple[Example, ...]
    cut: bool


@dataclass(frozen=True)
class MixingView:
    """What the section shows.

    Parameters
    ----------
    reason
        Why there is nothing; empty where there is.
    rows
        The first pairs.
    n_pair, n_judged
        All pairs, and those with enough images.
    counts
        Pairs of each verdict; empty where too many classes were there to store it.
    scatter
        Confusion over separation; None without the matrices.
    omitted
        What the scatter leaves out.
    definitions
        What every number means.
    """

    reason: str
    rows: tuple[PairRow, ...]
    n_pair: int
    n_judged: int
    scatter: Scatter | None
    omitted: str
    definitions: tuple[Fact, ...]


def view(material: Material, album: Album) -> MixingView:
    """Gather what the section shows: the pairs to look at first, then all of them as points."""
    notes = material.notes("mixing")
    rows = notes.get("rows", ())
    if not rows:
        return MixingView(str(notes.get("reason", "no pairs of classes")), (), 0, 0, None, "", ())
    longest = [float(largest) or 1.0 for largest in notes["largest"]]
    shown = tuple(_row(material, album, place, row, longest) for place, row in enumerate(rows))
    drawn, omitted = _scatter(material, notes)
    return MixingView(
        reason="",
        rows=shown,
        n_pair=int(notes["pairs_of_classes"]),
        n_judged=int(notes["pairs_judged"]),
        scatter=drawn if drawn and album.spend("mixing", sum(len(shape.d) for shape in drawn.shapes) + 3_000) else None,
        omitted=omitted,
        definitions=tuple(Fact(name.capitalize(), text) for name, text in notes["definitions"].items()),
    )


def _row(material: Material, album: Album, place: int, row: Mapping[str, Any], longest: list[float]) -> PairRow:
    value, rank = material.row("mixing/value", place), material.row("mixing/rank", place)
    names = material.class_name(row["classes"][0]), material.class_name(row["classes"][1])
    word, icon, *_ = _VERDICTS[_CODES[row["verdict"]]]
    examples, cut = _examples(material, album, place, names)
    numbers = (
        _number(_percent(value[0]), _of_answers(row), rank[0], value[0] / longest[0], "confusion" in row["speaks"],
                [100 * bound / longest[0] for bound in row["bounds"] if bound is not None]),
        _number(_signal(value[1]), _of_features(row), rank[1], value[1] / longest[1], "separation" in row["speaks"]),
        _number(_signal(value[2]), _of_links(row), rank[2], value[2] / longest[2], "neighbors" in row["speaks"]),
    )  # fmt: skip
    joint = _rank(float(material.row("mixing/joint", place)))
    return PairRow(names, word if row["enough"] else "too few images", icon, numbers, joint, examples, cut)


def _number(text: str, detail: str, rank: float, share: float, loud: bool, bounds: list[float] | None = None) -> Number:
    low, high = (min(100.0, bound) for bound in bounds) if bounds else (0.0, 0.0)
    bar = 100.0 if share == math.inf else 0.0 if math.isnan(share) else round(100 * share, 1)
    return Number(text, detail, _rank(rank), bar, round(low, 1), round(high - low, 1), loud)


def _rank(rank: float) -> str:
    return "" if math.isnan(rank) else figures.short(float(rank))


def _percent(share: float | None) -> str:
    return "not measured" if share is None or math.isnan(share) else f"{100 * share:.1f}\u00a0%"


def _signal(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else figures.number(float(value))


def _of_answers(row: Mapping[str, Any]) -> str:
    first, second = row["taken"]
    bounds = [None if bound is None else 100 * bound for bound in row["bounds"]]
    between = "" if None in bounds else f"; 95\u00a0%: {bounds[0]:.1f} to\u00a0{bounds[1]:.1f}"
    return f"{first:,} + {second:,} of {row['images'][0]:,}{between}"


def _of_features(row: Mapping[str, Any]) -> str:
    return f"nearer to the other: {_percent(row['crossed_share'])}"


def _of_links(row: Mapping[str, Any]) -> str:
    first, second = row["links"]
    return f"{first:,} + {second:,} links: {_percent(row['link_share'])}, by chance {_percent(row['link_chance'])}"


def _examples(material: Material, album: Album, place: int, names: tuple[str, str]) -> tuple[tuple[Example, ...], bool]:
    """Images near the other centroid, then images answered as the other class; each image once."""
    found: dict[int, Example] = {}
    for path, said in (("mixing/nearest", "{0}, near {1}"), ("mixing/taken", "{0} taken for {1}")):
        for side, images in enumerate(material.row(path, place)):
            text = said.format(names[side], names[1 - side])
            for image in (int(image) for image in images if image >= 0):
                if image in found:
                    found[image] = Example(found[image].frame, found[image].image, f"{text}, and near it")
                    continue
                evidence = album.evidence("mixing", image, ())
                if evidence is None:
                    return tuple(found.values()), True
                found[image] = Example(evidence.frames[0] if evidence.frames else None, evidence.image, text)
    return tuple(found.values()), False


def _scatter(material: Material, notes: Mapping[str, Any]) -> tuple[Scatter | None, str]:
    if not notes.get("stored"):
        return None, "so many classes: only the pairs above are stored"
    verdict = material.array("mixing/verdicts").astype(int)
    one, two = np.triu_indices(len(verdict), 1)
    x, y = (material.array(f"mixing/{name}")[one, two].astype(float) for name in ("separation", "confused"))
    code = verdict[one, two]
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    # The named ones first, then those that come near to them.
    order = known[np.lexsort((known, -y[known], np.isin(code[known], (0, 4))))]
    kept = order[:_SHOWN]
    left_out = (
        (len(order) - len(kept), "less confused pairs"),
        (len(x) - len(known), "pairs infinitely far apart or without images"),
    )
    omitted = [f"{what} ({n:,})" for n, what in left_out if n]
    place = {(int(a), int(b)): at for at, (a, b) in enumerate(zip(one[kept], two[kept], strict=True))}
    names = [
        (place[pair], f"{material.class_name(pair[0])[:14]}/{material.class_name(pair[1])[:14]}")
        for row in notes["rows"]
        if (pair := (row["classes"][0], row["classes"][1])) in place and row["verdict"] not in ("apart", "inconclusive")
    ]
    kinds = [(code[kept] == at, form, role, word) for at, (word, _, form, role) in enumerate(_VERDICTS)]
    return (scatter(x[kept], y[kept], kinds, names) if len(kept) else None), " and ".join(omitted)
