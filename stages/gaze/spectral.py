"""Groups among the heatmaps of one class: spectral clustering as in SpRAy (lapuschkin2019)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

# Distance to the neighbor of this rank is an image's own unit of length, as in the paper on self-tuning.
_NEIGHBOR = 7
# Keeps the graph in one piece where groups lie so far apart that their affinity underflows.
_FLOOR = 1e-6


def affinities(shares: Float[np.ndarray, "image cell"]) -> Float[np.ndarray, "image image"]:
    """How alike heatmaps are: a Gaussian of their distance, in units of each image's own neighborhood.

    Self-tuning (zelnik2004, eq. 3), of the Hellinger distance, which suits maps that add up to 1. Departs from
    SpRAy, which joins nearest neighbors by Euclidean distance: that graph falls apart into as many pieces as chance
    will have it when a class has few images.

    Parameters
    ----------
    shares
        One map per image, at least two, each adding up to 1.
    """
    root = np.sqrt(shares.astype(np.float64))
    # Row by row rather than by a product: equal maps have distance 0 exactly.
    square = np.stack([np.square(root - row).sum(axis=1) for row in root]) / 2
    rank = min(_NEIGHBOR, len(root) - 1)
    own = np.sqrt(np.sort(square, axis=1)[:, rank])
    unit = np.outer(own, own)
    ratio = np.divide(square, unit, out=np.where(square > 0, np.inf, 0.0), where=unit > 0)
    return np.maximum(np.exp(-ratio), _FLOOR)


def eigenvalues(affinity: Float[np.ndarray, "image image"], count: int) -> Float[np.ndarray, " rank"]:
    """The smallest eigenvalues of the graph's normalised Laplacian, ascending from 0."""
    from scipy.linalg import eigh

    weight = affinity.copy()
    np.fill_diagonal(weight, 0.0)
    scale = 1 / np.sqrt(weight.sum(axis=1))
    laplacian = np.eye(len(weight)) - weight * np.outer(scale, scale)
    return eigh(laplacian, eigvals_only=True, subset_by_index=(0, min(count, len(weight)) - 1)).clip(0)


def eigengap(values: Float[np.ndarray, " rank"], most: int) -> int:
    """Number of groups after which the eigenvalues make their largest jump (luxburg2007, section 8.3).

    Parameters
    ----------
    values
        Smallest eigenvalues of the Laplacian, ascending.
    most
        Largest number of groups allowed.
    """
    gaps = np.diff(values)[:most]
    return int(np.argmax(gaps)) + 1 if len(gaps) else 1


def clusters(
    shares: Float[np.ndarray, "image cell"], most: int, least: int, seed: int
) -> tuple[Int[np.ndarray, " image"], Float[np.ndarray, " rank"]]:
    """Sort heatmaps into groups.

    Parameters
    ----------
    shares
        One map per image, each adding up to 1.
    most
        Largest number of groups; how many there are is read off the eigengap.
    least
        Fewer images than this are one group.
    seed
        Of the start of the eigensolver; the assignment (cluster QR, damle2019) draws nothing.

    Returns
    -------
    tuple of ndarray
        Group of each image, the largest group first, of equal ones that of the first image; and the eigenvalues that
        decided, one more than `most`, NaN where there are none.
    """
    from sklearn.cluster import spectral_clustering

    values = np.full(most + 1, np.nan)
    group = np.zeros(len(shares), np.int64)
    if len(shares) < max(least, 2) or not (shares != shares[0]).any():
        return group, values
    affinity = affinities(shares)
    found = eigenvalues(affinity, most + 1)
    values[: len(found)] = found
    k = eigengap(found, most)
    if k > 1:
        group = spectral_clustering(affinity, n_clusters=k, assign_labels="cluster_qr", random_state=seed % 2**32)
    return _by_size(np.asarray(group, np.int64)), values


def _by_size(group: np.ndarray) -> np.ndarray:
    _, first, place, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -count))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[place.reshape(-1)]
