"""Arrays to images of pixels; knows neither the store nor HTML. Equal arrays give equal bytes."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

#: Sides up to this are stored without loss: lossy chroma smears pictures of a few pixels.
_LOSSLESS_SIDE = 40

# Dark violet over red to pale yellow: ordered in lightness, so it also reads without colour vision.
_WARM = np.array([(66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)
_COOL = np.array([(8, 48, 107), (33, 113, 181), (107, 174, 214), (198, 219, 239), (235, 245, 255)], float)


def encode_image(pixels: np.ndarray) -> tuple[str, bytes]:
    """Encode an image for a web page.

    Parameters
    ----------
    pixels
        Shape ``(channel, y, x)``, uint8; three channels are colours, of any other number the first is shown in grey.

    Returns
    -------
    tuple
        Media type and bytes: the smaller of PNG and lossless WebP for small pictures, else WebP of quality 80.
    """
    grey = pixels.shape[0] != 3
    image = Image.fromarray(np.ascontiguousarray(pixels[0] if grey else np.moveaxis(pixels, 0, -1)))
    if max(image.size) > _LOSSLESS_SIDE:
        return "image/webp", _save(image.convert("RGB"), "WEBP", quality=80, method=6)
    exact = _save(image.convert("RGB"), "WEBP", lossless=True, quality=50, method=3)
    png = _save(image, "PNG", optimize=True)
    return ("image/png", png) if len(png) <= len(exact) else ("image/webp", exact)


def encode_heatmap(heatmap: np.ndarray) -> bytes:
    """Encode a heatmap at its own resolution, to be laid over its image: the stronger, the less transparent.

    Parameters
    ----------
    heatmap
        Shape ``(y, x)`` or ``(time,)``; any unit, since it is scaled to its own largest absolute value. Positive
        values are warm, negative ones blue. All zero or not finite is fully transparent.

    Returns
    -------
    bytes
        PNG with an alpha channel.
    """
    values = np.atleast_2d(np.asarray(heatmap, float))
    values = np.where(np.isfinite(values), values, 0.0)
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    place = strength * (len(_WARM) - 1)
    colours = np.where((values >= 0)[..., None], _ramp(_WARM, place), _ramp(_COOL, place))
    alpha = 0.8 * np.sqrt(strength) * (strength > 0)
    pixels = np.concatenate([colours, 255 * alpha[..., None]], axis=-1)
    return _save(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"), "PNG", optimize=True)


def encode_matrix(matrix: np.ndarray) -> bytes:
    """Encode a matrix with one pixel per cell, light where it is small, dark where it is large.

    Parameters
    ----------
    matrix
        Shape ``(row, column)``, from 0 to 1; NaN is transparent.
    """
    values = np.asarray(matrix, float)
    known = np.isfinite(values)
    place = np.clip(np.where(known, values, 0.0), 0, 1) ** 0.5 * (len(_COOL) - 1)
    pixels = np.concatenate([_ramp(_COOL[::-1], place), 255.0 * known[..., None]], axis=-1)
    return _save(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"), "PNG", optimize=True)


def encode_dots(points: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int], radius: int = 1) -> bytes:
    """Encode points as pixels on a transparent ground.

    Parameters
    ----------
    points
        Shape ``(point, 2)`` in pixels; those outside are clipped to the edge.
    size
        Width and height in pixels.
    colour
        Red, green and blue, 0 to 255.
    radius
        Half side of the square that each point paints.
    """
    alpha = np.zeros((size[1], size[0]), np.uint8)
    centre = np.rint(points).astype(int)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            x = np.clip(centre[:, 0] + dx, 0, size[0] - 1)
            alpha[np.clip(centre[:, 1] + dy, 0, size[1] - 1), x] = 1
    image = Image.fromarray(alpha, "P")
    image.putpalette([*colour, *colour])
    return _save(image, "PNG", optimize=True, transparency=0)


def data_uri(kind: str, payload: bytes) -> str:
    """Put bytes into an address, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(payload).decode('ascii')}"


def _ramp(colours: np.ndarray, place: np.ndarray) -> np.ndarray:
    low = np.clip(np.floor(place).astype(int), 0, len(colours) - 2)
    part = (place - low)[..., None]
    return colours[low] * (1 - part) + colours[low + 1] * part


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
