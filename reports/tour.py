"""What a map of images shows beside its points: single images, feature arrows, near classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..stages.embeddings.biplot import CONVENTION, longest_arrows
from . import figures
from .album import Album, picture_kind
from .atlas import Atlas, atlas, chosen, mosaic
from .material import Material

_ARROWS, _PAIRS = 6, 8
#: Cells of a grid of thumbnails across and down, at most.
_GRID = (20, 16)
#: Bytes of markup for one cell of a grid.
_CELL_BYTES = 130


@dataclass(frozen=True)
class Arrow:
    """A feature's arrow, its end and the place of its name in units of the map."""

    name: str
    x: float
    y: float
    text_x: float
    text_y: float
    length: float


@dataclass(frozen=True)
class Arrows:
    """The arrows of a biplot, and where they start."""

    x: float
    y: float
    arrows: tuple[Arrow, ...]
    convention: str


@dataclass(frozen=True)
class Pair:
    """Two classes whose images lie near each other in feature space."""

    first: str
    second: str
    overlap: float
    distance: float


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: its place in the grid and in the atlas, in pictures."""

    column: int
    row: int
    left: int
    top: int


@dataclass(frozen=True)
class Spots:
    """Single images on one map.

    Parameters
    ----------
    x, y
        Places in units of the map, in the order of the tour; None where the map has none.
    right, wrong
        Paths of the dots and crosses.
    cells, columns, rows
        Grid of thumbnails, empty where none are stored.
    crosses
        Path over the grid's misclassified images, one unit per cell.
    n
        How many have a place.
    """

    x: tuple[float | None, ...]
    y: tuple[float | None, ...]
    right: str
    wrong: str
    cells: tuple[Cell, ...]
    columns: int
    rows: int
    crosses: str
    n: int

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return 12 * len(self.x) + len(self.right) + len(self.wrong) + len(self.crosses) + _CELL_BYTES * len(self.cells)


@dataclass(frozen=True)
class Tour:
    """The single images that every map shows.

    Parameters
    ----------
    atlas
        Their thumbnails.
    told
        What the page's script reads: names, labels, predictions, the atlas.
    n, total
        How many they are, of how many that have a place somewhere.
    n_wrong
        How many of them are misclassified.
    """

    atlas: Atlas
    told: Mapping[str, Any]
    n: int
    total: int
    n_wrong: int


def draw_tour(
    material: Material, album: Album, places: Mapping[str, np.ndarray], size: tuple[int, int]
) -> tuple[Tour | None, dict[str, Spots]]:
    """Choose the images that maps show one by one, as many as the section's budget allows, and place them.

    Parameters
    ----------
    material, album
        Where pictures come from, and what they may cost.
    places
        Per map, a place for every image in units of the map; NaN for none. Shape ``(image, 2)``.
    size
        Width and height of a map.
    """
    known = [np.isfinite(place).all(axis=1) for place in places.values()]
    if not known or not np.any(known):
        return None, {}
    positions = np.flatnonzero(np.any(known, axis=0))
    for most in (1_000, 500, 250, 100):
        shown = chosen(positions, material.wrong, most)
        sheet = atlas(material, shown, picture_kind(material))
        tour = Tour(sheet, _told(material, sheet, size), len(shown), len(positions), int(_wrong(material, shown).sum()))
        spots = {leaf: _spots(material, sheet, place[shown], size) for leaf, place in places.items()}
        names = sum(len(name.encode()) + 16 for name in tour.told["names"])
        if album.spend("embeddings", len(sheet.href) + names + 3_000 + sum(one.size for one in spots.values())):
            return tour, spots
    return None, {}


def _wrong(material: Material, shown: np.ndarray) -> np.ndarray:
    return np.isin(shown, material.wrong)


def _told(material: Material, sheet: Atlas, size: tuple[int, int]) -> dict[str, Any]:
    shown = sheet.positions
    labels = material.labels[shown]
    predicted = np.full(len(shown), -1) if material.predicted is None else material.predicted[shown]
    present = sorted({int(value) for value in (*labels, *predicted)})
    return {
        "size": list(size),
        "names": [material.image_ids[position] for position in shown],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "classes": {str(value): material.class_name(value) for value in present},
        "atlas": {"columns": sheet.columns, "rows": sheet.rows, "side": sheet.side, "drawn": bool(sheet.href)},
    }


def _spots(material: Material, sheet: Atlas, place: np.ndarray, size: tuple[int, int]) -> Spots:
    has = np.asarray(np.isfinite(place).all(axis=1))
    wrong = _wrong(material, sheet.positions)
    columns = int(np.clip(np.sqrt(has.sum() * size[0] / size[1]) * 0.8, 4, _GRID[0]))
    rows = max(3, round(columns * size[1] / size[0]))
    grid = mosaic(place[has], size, columns, rows) if sheet.href else np.full((rows, columns), -1)
    source = np.flatnonzero(has)
    filled = [(int(y), int(x), int(source[grid[y, x]])) for y, x in zip(*np.nonzero(grid >= 0), strict=True)]
    crossed = np.array([(x + 0.82, y + 0.18) for y, x, one in filled if wrong[one]]).reshape(-1, 2)
    return Spots(
        x=tuple(
            round(float(x), 1) if seen else None for x, seen in zip(place[:, 0].tolist(), has.tolist(), strict=True)
        ),
        y=tuple(
            round(float(y), 1) if seen else None for y, seen in zip(place[:, 1].tolist(), has.tolist(), strict=True)
        ),
        right=figures.dots(place[has & ~wrong]),
        wrong=figures.crosses(place[has & wrong], 1.6),
        cells=tuple(Cell(x, y, one % sheet.columns, one // sheet.columns) for y, x, one in filled),
        columns=columns,
        rows=rows,
        crosses="".join(f"M{x - 0.12:.2f} {y - 0.12:.2f}l.24 .24m0-.24l-.24 .24" for x, y in crossed),
        n=int(has.sum()),
    )


def biplot(material: Material, leaf: str, origin: np.ndarray, size: tuple[int, int]) -> Arrows | None:
    """The arrows of a leaf that stores directions.

    Parameters
    ----------
    material, leaf
        What was embedded, and how.
    origin
        Where the map has the mean of the features.
    size
        Width and height of the map.
    """
    if f"{leaf}/component" not in material.store.arrays(leaf):
        return None
    place, end = longest_arrows(material.array(f"{leaf}/component").astype(float), _ARROWS)
    if not len(place):
        return None
    length = np.sqrt((end**2).sum(axis=1))
    reach = 0.36 * min(size) / length[0]
    tip = origin + reach * end * [1, -1]
    text = _apart(tip, (end / length[:, None]) * [1, -1])
    found = tuple(
        Arrow(
            name=str(one),
            x=round(float(tip[at, 0]), 1),
            y=round(float(tip[at, 1]), 1),
            text_x=round(float(text[at, 0]), 1),
            text_y=round(float(text[at, 1]), 1),
            length=float(length[at]),
        )
        for at, one in enumerate(place.tolist())
    )
    return Arrows(round(float(origin[0]), 1), round(float(origin[1]), 1), found, CONVENTION)


def _apart(tip: np.ndarray, outwards: np.ndarray) -> np.ndarray:
    """Places for names beyond the tips of arrows, moved further out where they would cover each other."""
    placed: list[np.ndarray] = []
    for one, way in zip(tip, outwards, strict=True):
        text = one + 7 * way
        while any(np.hypot(*(text - other)) < 8 for other in placed):
            text = text + 4 * way
        placed.append(text)
    return np.array(placed)


def nearest_classes(material: Material, leaf: str) -> tuple[Pair, ...]:
    """Pairs of classes with the largest overlap, the largest first; equals by class."""
    if f"{leaf}/overlap" not in material.store.arrays(leaf):
        return ()
    overlap = material.array(f"{leaf}/overlap").astype(float)
    distance = material.array(f"{leaf}/class_distance").astype(float)
    first, second = np.triu_indices(len(overlap), 1)
    value = overlap[first, second]
    kept = np.flatnonzero(~np.isnan(value))
    order = kept[np.argsort(-value[kept], kind="stable")][:_PAIRS]
    return tuple(
        Pair(
            material.class_name(int(first[at])),
            material.class_name(int(second[at])),
            float(value[at]),
            float(distance[first[at], second[at]]),
        )
        for at in order
    )
