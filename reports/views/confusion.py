"""Which classes are taken for which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...stages.confusion.matrix import mistakes
from ...stages.numerics.statistics import shares
from .. import rasters
from ..album import Album, Gallery
from ..material import Material
from ..reliability import Reliability, interval, reliability
from ..selection import Selection, selection

TITLE = "Confusion"
QUESTION = "Which classes are taken for which?"
_TABLE_CLASSES = 24
_PAIRS, _EXAMPLES = 5, 6
_LEVELS = 5
_PICTURED = "Confusion matrix of {n} classes: one row per label, one column per prediction"


@dataclass(frozen=True)
class Cell:
    """Images of one label that got one prediction; `level` shades the cell, "right" stands for the diagonal."""

    n: int
    level: str


@dataclass(frozen=True)
class MatrixRow:
    """One label."""

    name: str
    n: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ClassRow:
    """How one class fares.

    Parameters
    ----------
    name, n
        The class and how many images carry it as label.
    recall, low, high
        Share of them that is recognised, with its 95 % bounds; None without images.
    precision, n_predicted
        Share of right ones among the images that are predicted to be it; None where there is none.
    f1
        Harmonic mean of both; None where there is neither.
    precision_interval, f1_interval
        Their 95 % bounds.
    bar, bar_low, bar_width
        Recall and its bounds in percent, as geometry.
    """

    name: str
    n: int
    recall: float | None
    low: float | None
    high: float | None
    precision: float | None
    precision_interval: str
    f1: float | None
    f1_interval: str
    n_predicted: int
    bar: float
    bar_low: float
    bar_width: float


@dataclass(frozen=True)
class TopRow:
    """Share of images whose label is among the first `k` answers, with its 95 % bounds."""

    k: int
    share: float
    interval: str


@dataclass(frozen=True)
class Pair:
    """Images of one label that are all taken for the same other class."""

    label: str
    prediction: str
    n: int
    share: float
    interval: str
    gallery: Gallery


@dataclass(frozen=True)
class Mutual:
    """Two classes that are taken for each other: how often which way, and the share of all their images."""

    names: tuple[str, str]
    counts: tuple[int, int]
    share: float
    interval: str
    gallery: Gallery | None


@dataclass(frozen=True)
class SliceRow:
    """Images that share a value of a column, with the 95 % bounds of their accuracy as text and as geometry."""

    value: str
    n: int
    accuracy: float
    interval: str
    bar: float
    bar_low: float
    bar_width: float
    rest: float | None
    chance: float | None
    small: bool


@dataclass(frozen=True)
class SliceTable:
    """The values of one column, worst first, those with few images last; and how many more there are."""

    column: str
    rows: tuple[SliceRow, ...]
    hidden: int


@dataclass(frozen=True)
class ConfusionView:
    """The matrix as a table or, with many classes, as a picture and a part of it; classes from the worst; pairs."""

    class_names: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    inside: str
    picture: str
    picture_alt: str
    classes: tuple[ClassRow, ...]
    classes_hidden: int
    never: tuple[str, ...]
    absent: tuple[str, ...]
    top: tuple[TopRow, ...]
    reliability: Reliability
    selection: Selection | None
    slices: tuple[SliceTable, ...]
    pairs: tuple[Pair, ...]
    pairs_hidden: int
    mutual: tuple[Mutual, ...]


def view(material: Material, album: Album) -> ConfusionView:
    """Gather what the section shows."""
    matrix = material.array("confusion/matrix").astype(int)
    names = tuple(material.class_name(position) for position in range(len(matrix)))
    small = len(names) <= _TABLE_CLASSES
    notes = material.notes("confusion")
    order = np.arange(len(names)) if small else _order(material, len(names))
    shown = order if small else _block(notes, order)
    classes = _classes(notes)
    pairs, hidden = _pairs(material, album, matrix)
    return ConfusionView(
        class_names=tuple(names[at] for at in shown),
        rows=_table(matrix, names, shown),
        inside="" if small else _inside(matrix, shown),
        picture="" if small else _picture(album, matrix[np.ix_(order, order)]),
        picture_alt="" if small else _PICTURED.format(n=len(names)),
        classes=tuple(classes[: material.limits.rows]),
        classes_hidden=max(0, len(classes) - material.limits.rows),
        never=tuple(names[at] for at in notes.get("never_predicted", ())),
        absent=tuple(names[at] for at in notes.get("absent", ())),
        top=tuple(TopRow(row["k"], row["share"], interval(row["bounds"])) for row in notes.get("top", ())),
        reliability=reliability(notes),
        selection=selection(notes),
        slices=tuple(_slice_table(told, material.limits.rows) for told in notes.get("slices", ())),
        pairs=pairs,
        pairs_hidden=hidden,
        mutual=_mutual(material, album, notes),
    )


def _picture(album: Album, matrix: np.ndarray) -> str:
    """All classes, one pixel a cell: the share of the label's images; empty where the budget has no room."""
    drawn = rasters.data_uri("image/png", rasters.encode_matrix(shares(matrix, matrix.sum(axis=1, keepdims=True))))
    return drawn if album.spend("confusion", len(drawn)) else ""


def _order(material: Material, n: int) -> np.ndarray:
    """Classes in the order that puts confused ones side by side; as they come, where it is not stored."""
    if "confusion/order" not in material.store.arrays("confusion"):
        return np.arange(n)
    return material.array("confusion/order").astype(int)


def _block(notes: Mapping[str, Any], order: np.ndarray) -> np.ndarray:
    block = {"start": 0, "size": _TABLE_CLASSES} | notes.get("block", {})
    return order[block["start"] : block["start"] + min(_TABLE_CLASSES, block["size"])]


def _inside(matrix: np.ndarray, shown: np.ndarray) -> str:
    """How many of all errors the block holds."""
    part = matrix[np.ix_(shown, shown)]
    errors, total = (int(counts.sum() - np.trace(counts)) for counts in (part, matrix))
    return f"{errors:,} of {total:,} errors"


def _table(matrix: np.ndarray, names: tuple[str, ...], shown: np.ndarray) -> tuple[MatrixRow, ...]:
    totals, matrix = matrix.sum(axis=1)[shown], matrix[np.ix_(shown, shown)]
    peak = max(_LEVELS, int(mistakes(matrix).max(initial=0)))
    rows = []
    for label, name in enumerate(names[at] for at in shown):
        cells = tuple(
            Cell(int(n), "right" if label == prediction else _level(int(n), peak))
            for prediction, n in enumerate(matrix[label])
        )
        rows.append(MatrixRow(name, int(totals[label]), cells))
    return tuple(rows)


def _level(n: int, peak: int) -> str:
    return str(math.ceil(_LEVELS * n / peak)) if n else "0"


def _classes(notes: Mapping[str, Any]) -> list[ClassRow]:
    """Classes from the worst recall up, those without images last."""
    rows = [_class_row(row) for row in notes.get("classes", ())]
    return sorted(rows, key=lambda row: (row.recall is None, row.recall or 0.0, row.name))


def _class_row(row: Mapping[str, Any]) -> ClassRow:
    recall, (low, high) = row["recall"], row["recall_bounds"]
    bar, bar_low, bar_high = (0.0 if share is None else round(100 * share, 1) for share in (recall, low, high))
    return ClassRow(
        name=str(row["name"]),
        n=int(row["support"]),
        recall=recall,
        low=low,
        high=high,
        precision=row["precision"],
        precision_interval=interval(row.get("precision_bounds")),
        f1=row.get("f1"),
        f1_interval=interval(row.get("f1_bounds")),
        n_predicted=int(row["predicted"]),
        bar=bar,
        bar_low=bar_low,
        bar_width=round(bar_high - bar_low, 1),
    )


def _pairs(material: Material, album: Album, matrix: np.ndarray) -> tuple[tuple[Pair, ...], int]:
    pairs = [
        (int(label), int(prediction), int(n))
        for (label, prediction), n in zip(
            material.array("confusion/pair"), material.array("confusion/pair_count"), strict=True
        )
        if label >= 0 and n > 0
    ]
    bounds = {
        (row["label"], row["prediction"]): row.get("bounds") for row in material.notes("confusion").get("pairs", ())
    }
    shown = []
    wrong = material.wrong
    for label, prediction, n in pairs[:_PAIRS]:
        predicted = material.predicted
        mask = (
            np.empty(0, int)
            if predicted is None
            else (material.labels[wrong] == label) & (predicted[wrong] == prediction)
        )
        gallery = album.gallery("confusion", wrong[mask] if predicted is not None else (), limit=_EXAMPLES)
        total = int(matrix[label].sum())
        share = n / total if total else math.nan
        names = material.class_name(label), material.class_name(prediction)
        shown.append(Pair(*names, n, share, interval(bounds.get((label, prediction))), gallery))
    return tuple(shown), len(pairs) - len(shown)


def _mutual(material: Material, album: Album, notes: Mapping[str, Any]) -> tuple[Mutual, ...]:
    """Pairs whichever way; those that go but one way are shown with the directed ones."""
    rows = notes.get("symmetric", ())
    shown = []
    for row in rows:
        a, b = row["classes"]
        both = min(row["counts"]) > 0 and len(shown) < _PAIRS
        gallery = album.gallery("confusion", row["images"], limit=_EXAMPLES) if both else None
        names = material.class_name(a), material.class_name(b)
        shown.append(Mutual(names, tuple(row["counts"]), row["share"], interval(row["bounds"]), gallery))
    return tuple(shown)


def _slice_table(told: Mapping[str, Any], limit: int) -> SliceTable:
    rows = told["values"][:limit]
    hidden = told["hidden"] + len(told["values"]) - len(rows)
    return SliceTable(str(told["column"]), tuple(_slice_row(row) for row in rows), hidden)


def _slice_row(row: Mapping[str, Any]) -> SliceRow:
    low, high = row["bounds"]
    return SliceRow(
        value=str(row["value"]) or "no value",
        n=int(row["n"]),
        accuracy=row["accuracy"],
        interval=interval(row["bounds"]),
        bar=round(100 * row["accuracy"], 1),
        bar_low=round(100 * low, 1),
        bar_width=round(100 * (high - low), 1),
        rest=row["rest"],
        chance=row["chance"],
        small=bool(row["small"]),
    )
