"""Sensitivity to noise: how much a heatmap changes when the image changes by next to nothing (yeh2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..numerics.seeds import numpy_generator


def uniform_noise(
    images: Float[np.ndarray, "image channel *space"], ids: Sequence[str], radius: float, sample: int, seed: int
) -> Float[np.ndarray, "image channel ..."]:
    """Draw noise that is uniform in a cube around each image.

    Parameters
    ----------
    images
        Network input, normalised.
    ids
        Stable name of each image: the same image gets the same noise in every batch.
    radius
        Half the cube's edge, as a share of the distance between the image's smallest and largest value.
    sample
        Which of several draws.
    seed
        Root of the random numbers.
    """
    shape = images.shape[1:]
    drawn = [
        numpy_generator(seed, name, f"faithfulness noise {sample}").uniform(-1, 1, shape).astype(np.float32)
        for name in ids
    ]
    flat = images.reshape(len(images), -1)
    edge = radius * (flat.max(axis=1) - flat.min(axis=1))
    return np.stack(drawn) * edge.reshape(-1, *(1,) * len(shape))


def relative_change(
    first: Float[np.ndarray, "image ..."], second: Float[np.ndarray, "image ..."]
) -> Float[np.ndarray, " image"]:
    """Euclidean length of the change of a heatmap over that of the heatmap; NaN where the heatmap is zero throughout.

    The largest of several draws is the maximum sensitivity of yeh2019 (eq. 2), here relative to the heatmap, since
    methods differ in scale, and over a few draws, which is a lower bound of the maximum over all noise.
    """
    one, two = (heatmap.reshape(len(heatmap), -1).astype(np.float64) for heatmap in (first, second))
    size = np.linalg.norm(one, axis=1)
    change = np.linalg.norm(two - one, axis=1)
    return np.divide(change, size, out=np.full(len(one), np.nan), where=size > 0)
