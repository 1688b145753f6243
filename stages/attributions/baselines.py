"""What an image without its content looks like: where a path begins, or what covers a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError

#: ``"zero"``: 0 as the network is fed, which is the mean colour of the normalisation; ``"black"``: 0 in input units,
#: before the normalisation; ``"mean"``: each image's own mean per channel; ``"blur"``: the image, smoothed.
Baseline = Literal["zero", "black", "mean", "blur"]

#: How many standard deviations a kernel reaches: beyond lies less than 1e-4 of it.
_REACH = 4.0


def baseline(
    images: Float[Tensor, "image channel *space"],
    kind: Baseline,
    mean: Sequence[float],
    std: Sequence[float],
    blur: float,
) -> Float[Tensor, "image channel *space"]:
    """Take the content out of images.

    Parameters
    ----------
    images
        As the network is fed: normalised.
    kind
        What remains.
    mean, std
        Of the normalisation, per channel, in input units.
    blur
        Standard deviation of the Gaussian of ``"blur"``, as a share of the longest spatial axis.

    Returns
    -------
    Float[Tensor, "image channel *space"]
        Normalised, of the same type and memory format.
    """
    blank = torch.empty_like(images)
    if kind == "zero":
        return blank.zero_()
    if kind == "mean":
        return blank.copy_(images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images))
    if kind == "black":
        value = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=images.dtype, device=images.device)
        return blank.copy_(value.view(1, -1, *[1] * (images.ndim - 2)).expand_as(images))
    if kind == "blur":
        return blank.copy_(blurred(images, blur * max(images.shape[2:])))
    raise ConfigError(f"baseline: expected 'zero', 'black', 'mean' or 'blur', got {kind!r}")


def blurred(images: Float[Tensor, "image channel *space"], sigma: float) -> Float[Tensor, "image channel *space"]:
    """Smooth with a Gaussian along every spatial axis; values at the border continue beyond it.

    Parameters
    ----------
    images
        Any number of spatial axes.
    sigma
        Standard deviation in positions, above 0; the kernel is cut at 4 of it.
    """
    reach = max(1, round(_REACH * sigma))
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images).view(1, 1, -1)
    for axis in range(2, images.ndim):
        lines = images.movedim(axis, -1)
        shape = lines.shape
        padded = F.pad(lines.reshape(-1, 1, shape[-1]), (reach, reach), mode="replicate")
        images = F.conv1d(padded, kernel).view(shape).movedim(-1, axis)
    return images
