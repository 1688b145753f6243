"""From network input back to pictures that a report can show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


def denormalised(
    image: Float[Tensor, "image channel *space"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "image channel *space"]:
    """Undo the normalisation: ``value = input * std + mean``.

    Parameters
    ----------
    image
        Network input.
    mean, std
        Per channel, in input units.
    """
    shape = (1, -1, *(1,) * (image.ndim - 2))
    scale = torch.tensor(std, dtype=image.dtype, device=image.device).view(shape)
    return image * scale + torch.tensor(mean, dtype=image.dtype, device=image.device).view(shape)


def thumbnail_shape(y: int, x: int, size: int) -> tuple[int, int]:
    """Size of a picture whose longer side is at most `size`; never larger than the original, never below 1."""
    longest = max(y, x)
    if longest <= size:
        return y, x
    return max(1, round(y * size / longest)), max(1, round(x * size / longest))


def shrunk(
    image: Float[Tensor, "image channel y x"], shape: tuple[int, int]
) -> Float[Tensor, "image channel small_y small_x"]:
    """Scale down with a triangle filter as wide as a target pixel; unchanged where the shape fits already."""
    if tuple(image.shape[2:]) == shape:
        return image
    return F.interpolate(image, size=shape, mode="bilinear", antialias=True, align_corners=False)


def as_bytes(image: Float[Tensor, "image channel y x"]) -> UInt8[Tensor, "image channel y x"]:
    """Round values between 0 and 1 to 0..255; what lies outside is cut off, NaN becomes 0."""
    return (image.nan_to_num(0.0) * 255).round().clamp(0, 255).to(torch.uint8)


def outside(
    image: Float[Tensor, "image channel *space"], tolerance: float
) -> tuple[Int[Tensor, " image"], Float[Tensor, " image"], Float[Tensor, " image"]]:
    """Count values of each image beyond 0..1, and tell its smallest and largest value.

    Parameters
    ----------
    image
        De-normalised input.
    tolerance
        How far beyond 0 or 1 is still taken for rounding.
    """
    flat = image.flatten(1)
    # Negated, so that NaN counts as outside.
    inside = (flat >= -tolerance) & (flat <= 1 + tolerance)
    return (~inside).sum(1), flat.amin(1), flat.amax(1)
