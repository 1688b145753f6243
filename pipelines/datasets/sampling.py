"""A sample that keeps the share of every class and that no other image's presence can shift."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def stratified_sample(ids: Iterable[str], labels: Iterable[int], limit: int, seed: int) -> np.ndarray:
    """Choose at most `limit` images, of every class the same share.

    Places are dealt by largest remainder, ties to the lower label; inside a class the images with the smallest hash
    of (seed, id) win, so that the choice hangs on neither order nor library versions.

    Parameters
    ----------
    ids, labels
        One per image.
    limit
        Number of images to keep, at most the number there is.
    seed
        Any number.

    Returns
    -------
    np.ndarray
        Positions of the chosen images, ascending.
    """
    names, classes = list(ids), np.asarray(list(labels))
    chosen: list[int] = []
    for label, places in zip(*_dealt(classes, limit), strict=True):
        members = np.flatnonzero(classes == label)
        ranked = sorted(members, key=lambda position: _rank(names[position], seed))
        chosen.extend(int(position) for position in ranked[:places])
    return np.asarray(sorted(chosen), dtype=np.int64)


def _dealt(classes: np.ndarray, limit: int) -> tuple[Sequence[int], Sequence[int]]:
    """How many images each class may send."""
    labels, counts = np.unique(classes, return_counts=True)
    # In whole numbers: a share in floats could round two equal remainders apart.
    places, remainders = np.divmod(counts * limit, counts.sum())
    order = np.argsort(-remainders, kind="stable")
    places[order[: limit - places.sum()]] += 1
    return labels.tolist(), places.tolist()


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0sample\0{name}".encode()).digest()
