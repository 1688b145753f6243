"""Which images a method is judged on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ..numerics.seeds import stable_seed


def spread_sample(
    image_id: Sequence[str],
    label: Int[np.ndarray, " image"],
    predicted: Int[np.ndarray, " image"],
    limit: int,
    seed: int,
    wrong_only: bool = False,
) -> Int[np.ndarray, " chosen"]:
    """Choose images evenly over right and wrong answers, and within each over predicted classes.

    Every group of (right or wrong, predicted class) sends one image after the other, the two kinds in turn, until there
    are enough; inside a group those with the smallest hash of (seed, id) go first, so that neither the order of the
    images nor a library's generator has a say.

    Parameters
    ----------
    image_id
        Stable name of each image.
    label
        Class position; -1 where there is none, and such an image counts as right.
    predicted
        Class position; -1 for an image without an answer, which is never chosen.
    limit
        How many at most.
    seed
        Root of the random numbers.
    wrong_only
        Whether only images that are wrong can be chosen.

    Returns
    -------
    Int[np.ndarray, " chosen"]
        Positions, ascending.
    """
    wrong = (label >= 0) & (predicted >= 0) & (label != predicted)
    usable = np.flatnonzero((predicted >= 0) & (wrong if wrong_only else True))
    keyed = sorted((stable_seed(seed, image_id[image], "faithfulness"), image) for image in usable.tolist())
    met: dict[tuple[bool, int], int] = {}
    turns = []
    for key, image in keyed:
        group = (bool(wrong[image]), int(predicted[image]))
        met[group] = met.get(group, 0) + 1
        turns.append((met[group], group[1], key, group[0], image))
    kinds = [[turn[-1] for turn in sorted(turns) if turn[3] is kind] for kind in (False, True)]
    few, many = sorted(kinds, key=len)
    from_few = min(len(few), limit // 2 if many else limit)
    return np.array(sorted(few[:from_few] + many[: limit - from_few]), np.int64)
