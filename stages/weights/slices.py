"""The weights that are stored to be looked at."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def strongest(
    filters: Float[np.ndarray, "filter plane *kernel"], limit: int
) -> tuple[Float[np.ndarray, " slice *kernel"], Int[np.ndarray, "slice 2"]]:
    """The planes with the largest norm in a layer, at most `limit`, and which filter and plane each is.

    The largest come first; equals in order of filter and plane, and what is not finite last.
    """
    planes = filters.reshape(-1, *filters.shape[2:])
    norm = np.nan_to_num(np.linalg.norm(planes.reshape(len(planes), -1), axis=1), nan=-1.0, posinf=-1.0)
    order = np.argsort(-norm, kind="stable")[:limit]
    return planes[order], np.stack(np.divmod(order, filters.shape[1]), axis=1)


def fitted(kernels: Float[np.ndarray, " n *kernel"], side: int) -> Float[np.ndarray, " n *kernel"]:
    """Kernels with no axis longer than `side`: means over neighbouring cells where it was, else unchanged."""
    for axis in range(1, kernels.ndim):
        length = kernels.shape[axis]
        if length > side:
            share = _shares(length, side)
            kernels = np.moveaxis(np.tensordot(kernels, share, axes=(axis, 0)), -1, axis)
    return kernels


def padded(kernels: Float[np.ndarray, " n *kernel"], rows: int, side: int) -> Float[np.ndarray, " rows *side"]:
    """Kernels in the first corner of a larger array of NaN."""
    larger = np.full((rows, *(side,) * (kernels.ndim - 1)), np.nan, np.float32)
    larger[(slice(len(kernels)), *(slice(length) for length in kernels.shape[1:]))] = kernels
    return larger


def _shares(length: int, side: int) -> Float[np.ndarray, "length side"]:
    """How much of each cell falls into each of fewer cells; columns sum to 1."""
    start = np.arange(length)[:, None]
    edges = np.linspace(0, length, side + 1)
    overlap = np.minimum(start + 1, edges[1:]) - np.maximum(start, edges[:-1])
    return np.clip(overlap, 0, None) * side / length
