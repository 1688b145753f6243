"""Images with one place covered, or with one place taken from elsewhere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .grids import Box


def covered(images: Float[Tensor, "image channel *space"], box: Box) -> Float[Tensor, "image channel *space"]:
    """Paint a place in the mean colour of the image's outermost pixels elsewhere.

    Parameters
    ----------
    images
        As the network is fed; left as they are.
    box
        The place.
    """
    ring = torch.ones(images.shape[2:], dtype=torch.bool, device=images.device)
    ring[tuple(slice(1, -1) for _ in box)] = False
    ring[_inside(box)] = False
    if not ring.any():
        ring[:] = True
    changed = images.clone()
    colour = images[:, :, ring].mean(dim=2)
    changed[(slice(None), slice(None), *_inside(box))] = colour.reshape(*colour.shape, *(1,) * len(box))
    return changed


def pasted(
    images: Float[Tensor, "image channel *space"], other: Float[Tensor, " channel *space"], box: Box
) -> Float[Tensor, "image channel *space"]:
    """Put what another image has in a place into the same place of all images; they are left as they are."""
    changed = images.clone()
    place = _inside(box)
    changed[(slice(None), slice(None), *place)] = other[(slice(None), *place)].to(images)
    return changed


def _inside(box: Box) -> tuple[slice, ...]:
    return tuple(slice(first, last) for first, last in box)
