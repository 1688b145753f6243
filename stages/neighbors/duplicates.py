"""Images that occur more than once: as the same file, or as nearly the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Groups = tuple[tuple[int, ...], ...]


def duplicate_groups(content: Sequence[str]) -> Groups:
    """Positions of images with equal content, by first position; an empty digest equals nothing."""
    groups: dict[str, list[int]] = {}
    for position, digest in enumerate(content):
        if digest:
            groups.setdefault(digest, []).append(position)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def in_conflict(groups: Sequence[Sequence[int]], value: Sequence[object], missing: object) -> Groups:
    """The groups whose members differ in `value`; members whose value is `missing` do not count."""
    return tuple(tuple(group) for group in groups if len({value[position] for position in group} - {missing}) > 1)


def first_of(groups: Groups, n: int) -> Int[np.ndarray, " image"]:
    """First member of each image's group; -1 for an image in none."""
    first = np.full(n, -1, np.int64)
    for group in groups:
        first[list(group)] = group[0]
    return first


def near_duplicates(
    index: Int[np.ndarray, "image neighbor"],
    length: Float[np.ndarray, "image neighbor"],
    share: float,
    copy_of: Int[np.ndarray, " image"],
) -> Int[np.ndarray, " image"]:
    """The nearest other image that is nearly the same picture; -1 for none.

    Two images are near-duplicates when their distance is at most `share` of the distance of either to its k-th
    neighbor. So the scale comes from the surroundings of both, which holds for any layer and in dense and sparse
    regions alike; a group of more than k of them hides itself.

    Parameters
    ----------
    index
        Nearest other images, nearest first; -1 for none.
    length
        Euclidean distance to them; under cosine the chord.
    share
        0 to 1.
    copy_of
        `first_of` the groups of equal content: copies are no near-duplicates.
    """
    reach = length[:, -1]
    known = (index >= 0) & (reach[:, None] > 0)
    other = np.where(known, index, 0)
    copies = (copy_of[:, None] >= 0) & (copy_of[:, None] == copy_of[other])
    near = known & ~copies & (length <= share * np.minimum(reach[:, None], reach[other]))
    first = near.argmax(axis=1)
    return np.where(near.any(axis=1), index[np.arange(len(index)), first], -1)


def joined(near: Int[np.ndarray, " image"]) -> Groups:
    """Images that hang together by `near_duplicates`, each group and all groups by first position."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one = np.flatnonzero(near >= 0)
    graph = coo_array((np.ones(len(one), bool), (one, near[one])), shape=(len(near), len(near)))
    _, component = connected_components(graph, directed=False)
    members = np.flatnonzero(np.bincount(component)[component] > 1)
    groups: dict[int, list[int]] = {}
    for position in members.tolist():
        groups.setdefault(int(component[position]), []).append(position)
    return tuple(map(tuple, groups.values()))
