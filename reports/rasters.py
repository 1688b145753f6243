"""Arrays to images of pixels; knows neither the store nor HTML. Equal arrays give equal bytes."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

#: Sides up to this are stored without loss: lossy chroma smears pictures of a few pixels.
_LOSSLESS_SIDE = 40

#: Heatmaps are shown at most this wide and high: on the page they are not larger.
HEAT_SIDE = 64
#: Steps of strength of a heatmap; more cannot be told apart over a picture.
HEAT_LEVELS = 20
#: Share of a heatmap's magnitudes that its colours tell apart.
HEAT_SHARE = 0.995

# How fast weak places become visible: both signs together leave less room for haze.
_FADE, _FADE_SIGNED = 0.7, 0.5
# Dark violet over red to pale yellow: ordered in lightness, so it also reads without colour vision.
_WARM = np.array([(66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)
# Orange and blue are told apart without red-green vision too; both darken with strength.
_FOR = np.array([(255, 190, 120), (240, 120, 30), (190, 60, 0)], float)
_AGAINST = np.array([(150, 200, 255), (40, 120, 220), (10, 50, 140)], float)
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


def encode_grey(pixels: np.ndarray) -> str:
    """Encode grey values without loss, as a data address: the smaller of PNG and WebP.

    Parameters
    ----------
    pixels
        Shape ``(y, x)``, uint8.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    png = _save(image, "PNG", optimize=True)
    webp = _save(image.convert("RGB"), "WEBP", lossless=True, method=4)
    return data_uri("image/png", png) if len(png) <= len(webp) else data_uri("image/webp", webp)


def encode_heatmap(heatmap: np.ndarray, *, signed: bool = False, floor: float = 0.0) -> bytes:
    """Encode a heatmap to be laid over its image: the stronger, the less transparent.

    Parameters
    ----------
    heatmap
        Shape ``(y, x)`` or ``(time,)``; any unit, since it is scaled by itself (`strongest`). More positions than
        `HEAT_SIDE` along an axis are shown as means of neighbours.
    signed
        Whether it tells evidence for from evidence against: orange above zero and blue below, else one scale from
        violet to yellow.
    floor
        Value that is fully transparent in a map that is not signed.

    Returns
    -------
    bytes
        Lossless WebP with an alpha channel, in `HEAT_LEVELS` steps; fully transparent where it is zero throughout or
        not finite.
    """
    values = np.atleast_2d(np.asarray(heatmap, float)) - (0.0 if signed else floor)
    values = np.where(np.isfinite(values), values, 0.0)
    limit = strongest(values)
    shown = shrunk(values / (limit or 1.0))
    steps = np.rint(np.clip(np.abs(shown), 0, 1) * HEAT_LEVELS) / HEAT_LEVELS
    fade = _FADE_SIGNED if signed else _FADE
    if signed:
        colours = np.where((shown >= 0)[..., None], _ramp(_FOR, steps), _ramp(_AGAINST, steps))
    else:
        steps = steps * (shown > 0)
        colours = _ramp(_WARM, steps)
    pixels = np.concatenate([colours, 255 * (0.9 * steps**fade)[..., None]], axis=-1)
    return _save(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"), "WEBP", lossless=True, method=4)


def strongest(values: np.ndarray) -> float:
    """Magnitude that a heatmap shows in its strongest colour, and with it everything above.

    The smallest value that at least `HEAT_SHARE` of all magnitudes do not exceed, so that a few spikes do not hide the
    rest; the largest magnitude where that is zero, and in small maps.
    """
    magnitude = np.abs(np.asarray(values, float))
    return float(np.percentile(magnitude, 100 * HEAT_SHARE, method="higher") or magnitude.max())


def shrunk(values: np.ndarray) -> np.ndarray:
    """Means of neighbours, so that no axis is longer than `HEAT_SIDE`; shape ``(y, x)``, float32 where it shrinks."""
    y, x = values.shape
    if max(y, x) <= HEAT_SIDE:
        return values
    size = (max(1, round(x * min(1, HEAT_SIDE / x))), max(1, round(y * min(1, HEAT_SIDE / y))))
    return np.asarray(Image.fromarray(values.astype(np.float32), "F").resize(size, Image.Resampling.BOX), float)


def encode_matrix(matrix: np.ndarray) -> bytes:
    """Encode a matrix with one pixel per cell, light where it is small, dark where it is large.

    Parameters
    ----------
    matrix
        Shape ``(row, column)``, from 0 to 1; NaN is transparent.
    """
    values = np.asarray(matrix, float)
    known = np.isfinite(values)
    strength = np.clip(np.where(known, values, 0.0), 0, 1) ** 0.5
    pixels = np.concatenate([_ramp(_COOL[::-1], strength), 255.0 * known[..., None]], axis=-1)
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


def encode_sheet(sheet: Image.Image) -> bytes:
    """Encode many small pictures side by side; lossy, since together they are many pixels."""
    return _save(sheet, "WEBP", quality=70, method=4)


def data_uri(kind: str, payload: bytes) -> str:
    """Put bytes into an address, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(payload).decode('ascii')}"


def _ramp(colours: np.ndarray, strength: np.ndarray) -> np.ndarray:
    place = strength * (len(colours) - 1)
    low = np.clip(np.floor(place).astype(int), 0, len(colours) - 2)
    part = (place - low)[..., None]
    return colours[low] * (1 - part) + colours[low + 1] * part


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
