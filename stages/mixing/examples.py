"""Images that show how two classes mix."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from .separation import Table, squared_to


def nearest_images(
    table: Table, label: Int[np.ndarray, " image"], centroid: Float[np.ndarray, "class feature"],
    pair: Int[np.ndarray, "pair side"], limit: int,
) -> Int[np.ndarray, "pair side example"]:  # fmt: skip
    """Of each class of a pair the images nearest to the other one's centroid, nearest first; -1 where there are fewer.

    Parameters
    ----------
    table
        Features of at least one image.
    label
        Class positions of all images.
    centroid
        From the table's origin.
    pair
        Class positions.
    limit
        Images of each side.
    """
    found = np.full((len(pair), 2, limit), -1, np.int64)
    distance = np.full(found.shape, np.inf)
    wanted, place = np.unique(pair, return_inverse=True)
    place = place.reshape(pair.shape)
    for position, rows in table.blocks(max(len(wanted), centroid.shape[1])):
        far, own = squared_to(rows, centroid[wanted]), label[position]
        for at in np.ndindex(pair.shape):
            mine = np.flatnonzero(own == pair[at])
            other = place[at[0], 1 - at[1]]
            images = np.concatenate([found[at], position[mine]])
            lengths = np.concatenate([distance[at], far[mine, other]])
            best = np.lexsort((images, lengths))[:limit]
            found[at], distance[at] = images[best], lengths[best]
    return found


def taken_images(
    label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], confidence: Float[np.ndarray, " image"],
    pair: Int[np.ndarray, "pair side"], limit: int,
) -> Int[np.ndarray, "pair side example"]:  # fmt: skip
    """Of each class of a pair the images answered as the other one, surest first, equally sure ones by position."""
    found = np.full((len(pair), 2, limit), -1, np.int64)
    wrong = np.flatnonzero((label >= 0) & (predicted >= 0) & (label != predicted))
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")]
    for at in np.ndindex(pair.shape):
        mine = surest[(label[surest] == pair[at]) & (predicted[surest] == pair[at[0], 1 - at[1]])][:limit]
        found[at][: len(mine)] = mine
    return found
