"""Small kernels side by side on one picture; knows neither the store nor HTML."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .rasters import data_uri

#: Pixels that a kernel takes at least, so that the gap between two is thin beside them.
_SIDE = 24
_GAP = 4
# Between kernels: told from every grey, and from light and dark paper.
_GROUND = (70, 110, 170)


@dataclass(frozen=True)
class Sheet:
    """A picture of many kernels.

    Parameters
    ----------
    href
        Data address.
    width
        Width at which it is shown, in pixels of the page, where there is room.
    columns
        Kernels in a row.
    n
        Kernels.
    """

    href: str
    width: int
    columns: int
    n: int

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return len(self.href) + 300


def unit_scaled(kernels: np.ndarray, *, together: bool) -> np.ndarray:
    """Weights from 0 (the smallest) to 1 (the largest), of each kernel by itself or of all `together`.

    Parameters
    ----------
    kernels
        Shape ``(kernel, plane, *space)``. What has no spread becomes 0.5, what is not finite 0.
    """
    values = np.asarray(kernels, float)
    known = np.isfinite(values)
    axes = None if together else tuple(range(1, values.ndim))
    low = np.min(values, axis=axes, keepdims=True, initial=np.inf, where=known)
    high = np.max(values, axis=axes, keepdims=True, initial=-np.inf, where=known)
    span = high - low
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(span > 0, (values - low) / span, 0.5)
    return np.where(known, scaled, 0.0)


def sheet(scaled: np.ndarray, columns: int) -> Sheet:
    """Lay kernels out in rows, the first in the upper left.

    Parameters
    ----------
    scaled
        Shape ``(kernel, plane, y, x)`` or ``(kernel, plane, time)``, from 0 to 1. Three planes of a picture are
        colours; of any other number each is a strip of grey below the one before.
    columns
        Most kernels in a row.
    """
    tiles = _tiles(scaled)
    n, y, x, _ = tiles.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    canvas = np.zeros((rows * (y + _GAP) + _GAP, columns * (x + _GAP) + _GAP, 3), np.uint8)
    canvas[:] = _GROUND
    for place in range(n):
        top, left = _GAP + (place // columns) * (y + _GAP), _GAP + (place % columns) * (x + _GAP)
        canvas[top : top + y, left : left + x] = tiles[place]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "WEBP", lossless=True, method=4)
    return Sheet(data_uri("image/webp", buffer.getvalue()), round(canvas.shape[1] * 1.4), columns, n)


def _tiles(scaled: np.ndarray) -> np.ndarray:
    """Pixels ``(kernel, y, x, colour)``."""
    values = np.rint(255 * np.asarray(scaled, float)).astype(np.uint8)
    if values.ndim == 3:
        values = values[:, None]  # one picture whose rows are the planes
    elif values.shape[1] == 3:
        return _enlarged(np.moveaxis(values, 1, -1))
    else:
        n, plane, y, x = values.shape
        values = values.reshape(n, 1, plane * y, x)
    return _enlarged(np.repeat(np.moveaxis(values, 1, -1), 3, axis=-1))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Whole multiples of the pixels, so that a kernel of few weights is as large as one of many."""
    factor_y, factor_x = max(1, _SIDE // 3 // pixels.shape[1]), max(1, round(_SIDE / pixels.shape[2]))
    factor_y = factor_x if pixels.shape[1] == pixels.shape[2] else max(factor_y, min(factor_x, 6))
    return pixels.repeat(factor_y, axis=1).repeat(factor_x, axis=2)
