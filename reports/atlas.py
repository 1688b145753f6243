"""Many small pictures in one, and their arrangement by places on a map; equal arrays give equal bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import rasters
from .material import Material

#: Most images that a map shows one by one, and how many of these are misclassified ones that go first.
MOST, MOST_WRONG = 1_000, 300
#: Pixels along a side of one picture at most.
SIDE = 28
_READ = 256


@dataclass(frozen=True)
class Atlas:
    """Small pictures side by side.

    Parameters
    ----------
    href
        Data address of the whole; empty where nothing is stored to look at.
    columns, rows
        Pictures across and down; each is a square of `side` pixels.
    side
        See above.
    positions
        The image in each place, row by row.
    """

    href: str
    columns: int
    rows: int
    side: int
    positions: np.ndarray


def chosen(known: np.ndarray, wrong: np.ndarray, most: int = MOST) -> np.ndarray:
    """Images to show one by one: misclassified ones first, up to `MOST_WRONG`, then others evenly spaced; ascending.

    Parameters
    ----------
    known
        Positions of images that have a place, ascending.
    wrong
        Positions of misclassified images, most telling first.
    most
        How many at most.
    """
    if len(known) <= most:
        return known
    first = wrong[np.isin(wrong, known)][: min(MOST_WRONG, most // 3)]
    rest = known[~np.isin(known, first)]
    spaced = rest[np.linspace(0, len(rest) - 1, most - len(first)).round().astype(int)]
    return np.unique(np.concatenate([first, spaced]))


def atlas(material: Material, positions: np.ndarray, kind: str) -> Atlas:
    """Draw the thumbnails of some images, each scaled into a square; `kind` is that of `album.picture_kind`."""
    columns = max(1, int(np.ceil(np.sqrt(len(positions)))))
    rows = max(1, -(-len(positions) // columns))
    if kind != "image" or not len(positions):
        return Atlas("", columns, rows, SIDE, positions)
    pictures = _pictures(material, positions)
    side = min(SIDE, max(pictures[0].size))
    sheet = Image.new("RGB", (columns * side, rows * side), (128, 128, 128))
    for place, picture in enumerate(pictures):
        small = _fitted(picture, side)
        left, top = place % columns * side, place // columns * side
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    return Atlas(rasters.data_uri("image/webp", rasters.encode_sheet(sheet)), columns, rows, side, positions)


def _pictures(material: Material, positions: np.ndarray) -> list[Image.Image]:
    found = []
    for block in np.unique(positions // _READ):
        start = int(block) * _READ
        values = material.rows("thumbnails/image", start, start + _READ)
        for position in positions[positions // _READ == block]:
            pixels = values[position - start]
            grey = pixels.shape[0] != 3
            found.append(Image.fromarray(np.ascontiguousarray(pixels[0] if grey else np.moveaxis(pixels, 0, -1))))
    return found


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BOX)


def mosaic(points: np.ndarray, size: tuple[float, float], columns: int, rows: int) -> np.ndarray:
    """Lay points into the cells of a grid, each cell and each point at most once.

    The pair of a cell's centre and a point that lie nearest goes first, then the nearest of what is left, as long as
    they are no further apart than a cell's longer side; ties by cell, then by point. A cell without a point near it
    stays empty, so that gaps of the map stay gaps.

    Parameters
    ----------
    points
        Shape ``(point, 2)``, in the units of `size`.
    size
        Width and height of the map.
    columns, rows
        Cells across and down.

    Returns
    -------
    ndarray
        Position of a point for each cell, -1 where it is empty; shape ``(row, column)``.
    """
    wide, high = size[0] / columns, size[1] / rows
    y, x = np.divmod(np.arange(rows * columns), columns)
    centre = np.stack([(x + 0.5) * wide, (y + 0.5) * high], axis=1)
    squared = ((centre[:, None] - points[None]) ** 2).sum(axis=2)
    cell, point = np.nonzero(squared <= max(wide, high) ** 2)
    order = np.argsort(squared[cell, point], kind="stable")
    found, taken = np.full(rows * columns, -1), np.zeros(len(points), bool)
    for place, one in zip(cell[order], point[order], strict=True):
        if found[place] < 0 and not taken[one]:
            found[place], taken[one] = one, True
    return found.reshape(rows, columns)
