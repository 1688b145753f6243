"""Global average pooling, for any number of spatial axes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def spatial_mean(activation: Float[Tensor, "image channel *space"]) -> Float[Tensor, "image channel"]:
    """Mean over all spatial axes.

    Parameters
    ----------
    activation
        Output of a layer; without spatial axes it is its own mean.

    Returns
    -------
    Float[Tensor, "image channel"]
        A new tensor, safe to keep when the network writes over its own outputs.
    """
    if activation.ndim == 2:
        return activation.clone()
    return activation.mean(dim=tuple(range(2, activation.ndim)))
