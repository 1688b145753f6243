"""Features as arrows over a map of principal components (gabriel1971)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

#: How the map and its arrows are scaled, for people.
CONVENTION = (
    "Points are scores: images at their distances in the plane. An arrow is the loading of one feature on the two "
    "directions, its axis projected onto the plane: from length 0 (at right angles to it) to 1 (in it). All arrows are "
    "lengthened by one factor."
)


def longest_arrows(
    component: Float[np.ndarray, "component feature"], most: int
) -> tuple[Int[np.ndarray, " arrow"], Float[np.ndarray, "arrow 2"]]:
    """The features that the first two directions weigh most, and their arrows.

    This is the biplot of gabriel1971 with the singular values in the points (the form biplot): distances between points
    are those in the plane, and a point's projection onto an arrow, times the arrow's length, is that feature less
    its mean as far as the plane tells it. In the other one (values in the arrows) angles between arrows would
    approximate correlations, and distances between points would mean nothing.

    Parameters
    ----------
    component
        Directions of length 1; one alone is taken with a second of zero.
    most
        Arrows at most.

    Returns
    -------
    tuple
        Positions of the features, longest arrow first and equals by position, and the arrows' ends. Arrows of length
        0 are left out.
    """
    loading = np.zeros((component.shape[1], 2))
    loading[:, : min(2, len(component))] = component[:2].T
    length = np.sqrt((loading**2).sum(axis=1))
    order = np.lexsort((np.arange(len(length)), -length))[:most]
    order = order[length[order] > 0]
    return order, loading[order]
