"""Orders that know nothing of the image: what a deletion or insertion curve is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..numerics.seeds import numpy_generator

#: Cells per axis of a coarse random heatmap, as in maps of the last convolution.
_CELLS = 7


def random_heatmap(ids: Sequence[str], space: Sequence[int], grain: str, seed: int) -> Float[np.ndarray, "image ..."]:
    """Draw heatmaps that have nothing to do with their images.

    Scattered single positions disturb a network more than coherent patches of the same size, so that a smooth heatmap
    has to be held against smooth chance and a fine one against fine chance.

    Parameters
    ----------
    ids
        Stable name of each image: the same image gets the same heatmap in every batch.
    space
        Length of each spatial axis.
    grain
        ``"fine"``: each position by itself; ``"coarse"``: linear between values on a grid of 7 per axis.
    seed
        Root of the random numbers.
    """
    coarse = grain == "coarse"
    drawn_on = tuple(min(_CELLS, length) for length in space) if coarse else tuple(space)
    # One by one: a product over all images would round the last bit by how many there are.
    return np.stack(
        [_enlarged(numpy_generator(seed, name, f"faithfulness {grain}").random(drawn_on), space) for name in ids]
    )


def _enlarged(cells: Float[np.ndarray, "*cell"], space: Sequence[int]) -> Float[np.ndarray, "*space"]:
    found = cells
    for axis, length in enumerate(space):
        found = np.moveaxis(np.tensordot(found, _linear(length, found.shape[axis]), axes=(axis, 1)), -1, axis)
    return found


def _linear(length: int, cells: int) -> Float[np.ndarray, "position cell"]:
    if length == cells:
        return np.eye(length)
    place = np.arange(length) * (cells - 1) / max(1, length - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(cells)))
