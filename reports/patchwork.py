"""Patches of one channel and their projections, side by side (Zeiler and Fergus 2014, figure 2); knows no HTML."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import figures, rasters

#: Patches across.
ACROSS = 3
# Cells are at least and at most this many pixels: enlarged whole, so that single pixels of small fields stay sharp.
_LEAST, _MOST = 24, 44
# Points of a drawn signal, and the size of its cell in user units.
_POINTS, _SIGNAL = 64, (64, 34)
_GAP = 2
# A picture whose own pixels are enlarged this often is stored without loss.
_ENLARGED = 2


@dataclass(frozen=True)
class Cell:
    """One signal of a panel.

    Parameters
    ----------
    x, y, width, height
        Where it lies, in user units.
    paths
        One per channel.
    beyond
        First place and length of each part across where the signal has run out.
    """

    x: int
    y: int
    width: int
    height: int
    paths: tuple[str, ...]
    beyond: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Nine patches, or nine projections.

    Parameters
    ----------
    title
        What they are.
    width, height
        Size in user units.
    alt
        The same in words, for those who cannot see it.
    href
        The picture; empty for signals. It is transparent beyond the edge of an image.
    gaps
        Path of the lines between pictures.
    cells
        The signals.
    """

    title: str
    width: int
    height: int
    alt: str
    href: str = ""
    gaps: str = ""
    cells: tuple[Cell, ...] = ()

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        drawn = sum(160 + sum(len(d) + 40 for d in cell.paths) + 90 * len(cell.beyond) for cell in self.cells)
        return len(self.href) + len(self.gaps) + drawn + 400


def inside(span: np.ndarray, space: Sequence[int], size: np.ndarray) -> tuple[slice, ...]:
    """Which part of a stored crop lies inside the image.

    Parameters
    ----------
    span
        First pixel of the crop and the one after the last ``(axis, end)``, in pixels of the image.
    space
        Lengths of the image.
    size
        Lengths of the crop as it is stored.
    """
    found = []
    for (start, stop), length, stored in zip(span, space, size, strict=True):
        scale = stored / max(1, stop - start)
        first, last = (min(max(edge, start), stop) - start for edge in (0, length))
        found.append(slice(math.floor(first * scale + 0.5), math.floor(last * scale + 0.5)))
    return tuple(found)


def pictures(
    title: str, alt: str, crops: Sequence[np.ndarray | None], within: Sequence[tuple[slice, ...] | None]
) -> Panel:
    """Put pictures side by side.

    Parameters
    ----------
    title, alt
        As in `Panel`.
    crops
        ``(channel, y, x)`` uint8; None leaves a gap.
    within
        Which part of each lies inside its image.
    """
    rows = -(-len(crops) // ACROSS)
    shapes = [crop.shape[1:] for crop in crops if crop is not None] or [(1, 1)]
    sides = tuple(max(lengths) for lengths in zip(*shapes, strict=True))
    factor = max(1, -(-_LEAST // max(sides)))
    shrink = min(1.0, _MOST / max(sides))
    height, width = (max(1, round(side * factor * shrink)) for side in sides)
    whole = np.zeros((rows * (height + _GAP) - _GAP, ACROSS * (width + _GAP) - _GAP, 4), np.uint8)
    for at, (crop, part) in enumerate(zip(crops, within, strict=True)):
        if crop is not None:
            cell = _cell(crop, part, factor, shrink)
            y, x = (at // ACROSS) * (height + _GAP), (at % ACROSS) * (width + _GAP)
            whole[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    down = "".join(f"M0 {at * (height + _GAP) - _GAP / 2:g}h{whole.shape[1]}" for at in range(1, rows))
    across = "".join(f"M{at * (width + _GAP) - _GAP / 2:g} 0v{whole.shape[0]}" for at in range(1, ACROSS))
    return Panel(title, whole.shape[1], whole.shape[0], alt, _encoded(whole, factor >= _ENLARGED), down + across)


def brightened(projection: np.ndarray) -> np.ndarray:
    """Stretch a projection around its zero, 128, so that its few strongest values do not hide the rest."""
    values = projection.astype(float) - 128
    limit = rasters.strongest(values)
    return np.rint(np.clip(values * (127 / limit if limit else 1.0), -127, 127) + 128).astype(np.uint8)


def _cell(crop: np.ndarray, part: tuple[slice, ...] | None, factor: int, shrink: float) -> np.ndarray:
    """Colours and opacity, enlarged or scaled down."""
    colour = np.moveaxis(crop if len(crop) == 3 else np.repeat(crop[:1], 3, 0), 0, -1)
    alpha = np.zeros((*colour.shape[:2], 1), np.uint8)
    alpha[part if part is not None else ...] = 255
    cell = np.concatenate([colour, alpha], -1).repeat(factor, 0).repeat(factor, 1)
    if shrink < 1:
        height, width = (max(1, round(side * shrink)) for side in cell.shape[:2])
        cell = np.asarray(Image.fromarray(cell, "RGBA").resize((width, height), Image.Resampling.BOX))
    return cell


def _encoded(pixels: np.ndarray, exact: bool) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels, "RGBA")
    if exact:
        image.save(buffer, "WEBP", lossless=True, quality=60, method=4)
    else:
        image.save(buffer, "WEBP", quality=82, method=4, exact=False)
    return rasters.data_uri("image/webp", buffer.getvalue())


def signals(
    title: str, alt: str, crops: Sequence[np.ndarray | None], within: Sequence[tuple[slice, ...] | None]
) -> Panel:
    """Draw signals side by side, each on its own scale.

    Parameters
    ----------
    title, alt, within
        As in `pictures`.
    crops
        ``(channel, time)``; None leaves a gap.
    """
    width, height = _SIGNAL
    rows, cells = -(-len(crops) // ACROSS), []
    for at, (crop, part) in enumerate(zip(crops, within, strict=True)):
        if crop is None:
            continue
        edges = [(0, part[0].start), (part[0].stop, crop.shape[1])] if part is not None else [(0, crop.shape[1])]
        step = width / max(1, crop.shape[1])
        cells.append(
            Cell(
                x=(at % ACROSS) * (width + 2 * _GAP),
                y=(at // ACROSS) * (height + 2 * _GAP),
                width=width,
                height=height,
                paths=figures.traces(_drawable(_thinned(np.asarray(crop, float))), width, height),
                beyond=tuple((round(a * step, 1), round((b - a) * step, 1)) for a, b in edges if b > a),
            )
        )
    size = ACROSS * (width + 2 * _GAP) - 2 * _GAP, rows * (height + 2 * _GAP) - 2 * _GAP
    return Panel(title, *size, alt, cells=tuple(cells))


def _drawable(signal: np.ndarray) -> np.ndarray:
    """A single sample as a level line: a path of one point leaves no mark."""
    return signal.repeat(2, axis=1) if signal.shape[1] == 1 else signal


def _thinned(signal: np.ndarray) -> np.ndarray:
    """Means of neighbours, so that there are at most `_POINTS`."""
    n = signal.shape[1]
    if n <= _POINTS:
        return signal
    edges = np.linspace(0, n, _POINTS + 1).astype(int)[:-1]
    return np.add.reduceat(signal, edges, axis=1) / np.diff(np.append(edges, n))
