"""From a whole image to the part that a unit sees, small enough to be stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from ..receptive_fields.boxes import Group, Span, reach
from ..thumbnails.pictures import shrunk, thumbnail_shape


def extent(group: Group | None, position: Sequence[int], space: Sequence[int]) -> tuple[Span, ...]:
    """The part of the image, and of what lies around it, to show for a unit.

    Parameters
    ----------
    group
        Receptive field of the unit's channel; None where nothing is known of it.
    position
        Of the unit along the spatial axes of its layer.
    space
        Lengths of the image.

    Returns
    -------
    tuple
        First pixel and the one after the last, per axis. Reaches beyond the image where the receptive field does;
        along an axis where it covers the image from end to end, the image alone. The whole image where the field is
        not known, or the unit has no position.
    """
    spans = reach(group, position) if group is not None and len(position) == len(space) else None
    if spans is None:
        return tuple((0, length) for length in space)
    return tuple(
        (0, length) if start <= 0 and stop >= length else (start, stop)
        for (start, stop), length in zip(spans, space, strict=True)
    )


def cut(image: Float[Tensor, " channel *space"], spans: Sequence[Span]) -> Float[Tensor, " channel *crop"]:
    """Cut a part out of an image; zeros beyond its edge."""
    inside, pads = [slice(None)], []
    for (start, stop), length in zip(spans, image.shape[1:], strict=True):
        first, last = min(max(start, 0), length), min(max(stop, 0), length)
        inside.append(slice(first, last))
        # Where nothing of the image is left, one side takes it all.
        before = max(0, min(first - start, stop - start))
        pads.append((before, stop - start - (last - first) - before))
    part = image[tuple(inside)]
    return F.pad(part, [pad for pair in reversed(pads) for pad in pair]) if any(map(any, pads)) else part


def fitted(part: Float[Tensor, " channel *crop"], longest: int) -> Float[Tensor, " channel *small"]:
    """Scale down so that no side is longer than `longest`: pictures by a triangle filter, signals by means."""
    if max(part.shape[1:]) <= longest:
        return part
    if part.ndim == 2:
        return F.adaptive_avg_pool1d(part[None], longest)[0]
    return shrunk(part[None], thumbnail_shape(part.shape[1], part.shape[2], longest))[0]


def signed_bytes(values: Float[Tensor, " channel *space"]) -> tuple[UInt8[Tensor, " channel *space"], float]:
    """Values between their largest magnitude and minus that, as 1..255 with 0 at 128, and that magnitude.

    All 128 where that magnitude is not finite.
    """
    peak = float(values.abs().amax()) if values.numel() else 0.0
    steps = values / peak if 0 < peak < math.inf else torch.zeros_like(values)
    return (steps * 127).round().add(128).to(torch.uint8), peak


def outside(gradient: Float[Tensor, " channel *space"], spans: Sequence[Span]) -> float:
    """Share of a gradient's magnitude that lies outside of a part of the image.

    0 where the gradient is zero; NaN where it is not finite.
    """
    magnitude = gradient.abs()
    whole = float(magnitude.sum(dtype=torch.float64))
    if not math.isfinite(whole):
        return math.nan
    inside = [slice(None), *(slice(max(start, 0), max(stop, 0)) for start, stop in spans)]
    magnitude[tuple(inside)] = 0
    return float(magnitude.sum(dtype=torch.float64)) / whole if whole > 0 else 0.0
