"""Which class the images that excite a channel most belong to, and whether chance alone would do that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln

DEFINITION = (
    "Of the labelled images that excite a channel most, the class that is hardest to explain by drawing as many images "
    "at random: its share of them, and the probability that some class of the data would be as frequent by chance "
    "(hypergeometric tail, times the number of classes present)."
)


class Selectivity(NamedTuple):
    """Class selectivity of each channel; arrays ``(channel,)``.

    Parameters
    ----------
    favourite
        Class position; -1 where no image counts.
    share
        Its share of the images that count, above 0 to 1; NaN where none counts.
    n
        Images that count: those that excite the channel most, fired and have a label.
    chance
        Probability that some class would be as frequent if the images were drawn at random; NaN where none counts.
    """

    favourite: Int[np.ndarray, " channel"]
    share: Float[np.ndarray, " channel"]
    n: Int[np.ndarray, " channel"]
    chance: Float[np.ndarray, " channel"]


def selectivity(label: Int[np.ndarray, "channel rank"], size: Int[np.ndarray, " class"]) -> Selectivity:
    """Hold the classes of each channel's images against drawing as many without replacement.

    Parameters
    ----------
    label
        Class position of each image; -1 for one that does not count.
    size
        Labelled, usable images of each class.
    """
    counts = label >= 0
    n = counts.sum(1)
    alike = ((label[:, :, None] == label[:, None, :]) & counts[:, None, :]).sum(2)
    present = int((size > 0).sum())
    tail = _tail(alike, size[np.where(counts, label, 0)], n[:, None], int(size.sum()))
    # What does not count comes last; no probability is above 1.
    tail = np.where(counts, tail, 2.0)
    # The least likely class; of several the more frequent one, then the first.
    order = np.lexsort((label, -alike, tail), axis=1)[:, :1]
    first = [np.take_along_axis(array, order, 1)[:, 0] for array in (label, alike, tail)]
    some = n > 0
    return Selectivity(
        np.where(some, first[0], -1),
        np.where(some, first[1] / np.maximum(n, 1), np.nan),
        n,
        np.where(some, np.minimum(1.0, present * first[2]), np.nan),
    )


def _tail(least: np.ndarray, good: np.ndarray, drawn: np.ndarray, total: int) -> np.ndarray:
    """Probability of at least `least` good ones among `drawn` of `total` of which `good` are good."""
    whole = _log_choose(np.asarray(total, float), drawn)
    found = np.zeros(np.broadcast_shapes(least.shape, good.shape))
    for hit in range(int(drawn.max(initial=0)) + 1):
        possible = (hit >= least) & (hit <= drawn) & (hit <= good) & (drawn - hit <= total - good)
        a, b = np.where(possible, good, hit), np.where(possible, total - good, np.maximum(drawn - hit, 0))
        ways = _log_choose(a, hit) + _log_choose(b, np.maximum(drawn - hit, 0)) - whole
        found += np.where(possible, np.exp(ways), 0.0)
    return found


def _log_choose(n: np.ndarray, k: np.ndarray | int) -> np.ndarray:
    return gammaln(np.asarray(n, float) + 1) - gammaln(np.asarray(k, float) + 1) - gammaln(np.asarray(n - k, float) + 1)
