"""How far apart two classes lie in feature space, against how wide they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.distances import Metric, prepared

# Numbers in double precision held at once in one table of a block, and rows at once whatever their length.
_HELD, _FEWEST, _MOST = 1 << 22, 64, 4096
# Of the mean squared length of the rows: squared distances below that are rounding.
_ROUNDING = 1e-12

Block = tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]


@dataclass(frozen=True)
class Table:
    """Features that are read block by block, moved so that the first usable row is the origin.

    Parameters
    ----------
    stored
        Anything whose slices are arrays ``(image, feature)``, float32.
    usable
        Images that take part: labelled ones whose features the metric is defined for.
    metric
        Under cosine each row is scaled to length 1 first.
    """

    stored: Any
    usable: Bool[np.ndarray, " image"]
    metric: Metric

    def blocks(self, width: int) -> Iterator[Block]:
        """Positions and rows of the usable images; `width` is the longest row that anybody makes of one."""
        origin = self._origin()
        step = min(_MOST, max(_FEWEST, _HELD // max(1, width)))
        for a in range(0, len(self.usable), step):
            kept = np.flatnonzero(self.usable[a : a + step])
            if len(kept):
                yield a + kept, prepared(np.asarray(self.stored[a : a + step])[kept], self.metric) - origin

    def _origin(self) -> Float[np.ndarray, " feature"]:
        """The first usable row: features that are all equal become exact zeros, and large means cancel nothing."""
        first = int(np.argmax(self.usable))
        return prepared(np.asarray(self.stored[first : first + 1]), self.metric)[0]


@dataclass(frozen=True)
class Separation:
    """Classes against each other in feature space; NaN for classes without images.

    Parameters
    ----------
    count
        Usable images of each class.
    centroid
        Mean row of each class, from the table's origin.
    value
        Distance of two centroids over the pooled standard deviation along the line between them; NaN on the diagonal
        and where the deviation is unknown, infinite where it is 0.
    crossed
        Images of the class (row) that lie nearer to the other's centroid than to their own, which is taken without
        them; an image that lies as near to both counts half.
    crossed_taken
        Those of `crossed` that the head answers as the other class.
    """

    count: Int[np.ndarray, " class"]
    centroid: Float[np.ndarray, "class feature"]
    value: Float[np.ndarray, "class other"]
    crossed: Float[np.ndarray, "class other"]
    crossed_taken: Float[np.ndarray, "class other"]


@dataclass
class _Sums:
    """What a pass over the images adds up, by class and other class."""

    along: Float[np.ndarray, "class other"]
    crossed: Float[np.ndarray, "class other"]
    crossed_taken: Float[np.ndarray, "class other"]


def separation(
    table: Table, label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], n_class: int, width: int
) -> Separation:
    """Measure all pairs of classes in two passes over the features.

    Parameters
    ----------
    table
        Features of at least one image.
    label, predicted
        Class positions of all images; -1 for none.
    n_class
        Number of classes.
    width
        Features of one image.

    Notes
    -----
    With centroids m, unbiased mean squared distances W of images to their centroid, n images and the pooled variance
    s^2 of the images' places along the line from one centroid to the other (n_a + n_b - 2 degrees of freedom),

        d^2 = max(0, |m_a - m_b|^2 - W_a / n_a - W_b / n_b) / s^2.

    It is Fisher's criterion (fisher1936, without the step to the best direction) in units of a standard deviation. What
    is taken off is the distance that the means of two samples of one distribution have on average: in many dimensions
    it is large. Halfway between two normal distributions of one width, a cut puts the share Phi(-d / 2) on the wrong
    side; `crossed` counts that share instead of assuming it.
    """
    count, centroid, scale = _centroids(table, label, n_class, width)
    with np.errstate(invalid="ignore"):
        gram = centroid @ centroid.T
        length = np.diagonal(gram)
        apart = np.maximum(length[:, None] + length - 2 * gram, 0)
    apart[apart <= _ROUNDING * scale] = 0
    sums, within = _pass(table, label, predicted, (count, centroid, apart), _ROUNDING * scale)
    return Separation(count, centroid, _effect(count, apart, sums.along, within), sums.crossed, sums.crossed_taken)


def _centroids(
    table: Table, label: Int[np.ndarray, " image"], n_class: int, width: int
) -> tuple[Int[np.ndarray, " class"], Float[np.ndarray, "class feature"], float]:
    total, count, square = np.zeros((n_class, width)), np.zeros(n_class, np.int64), 0.0
    for position, rows in table.blocks(width):
        order, start, own = _by_label(label[position])
        total[own] += np.add.reduceat(rows[order], start)
        count += np.bincount(label[position], minlength=n_class)
        square += float((rows * rows).sum())
    with np.errstate(invalid="ignore"):
        return count, total / count[:, None], square / max(1, int(count.sum()))


def _pass(
    table: Table,
    label: Int[np.ndarray, " image"],
    predicted: Int[np.ndarray, " image"],
    classes: tuple[np.ndarray, np.ndarray, np.ndarray],
    rounding: float,
) -> tuple[_Sums, Float[np.ndarray, " class"]]:
    count, centroid, apart = classes
    n = len(count)
    sums, within = _Sums(*(np.zeros((n, n)) for _ in range(3))), np.zeros(n)
    # The centroid of the others of one's class is further away by this factor.
    without = np.divide(count, count - 1, out=np.full(n, np.nan), where=count > 1) ** 2
    for position, rows in table.blocks(max(n, centroid.shape[1])):
        own, line = label[position], np.arange(len(position))
        far = squared_to(rows, centroid)
        mine = far[line, own]
        order, start, present = _by_label(own)
        along = (mine[:, None] - far + apart[own]) / 2
        sums.along[present] += np.add.reduceat((along * along)[order], start)
        gap = far - (without[own] * mine)[:, None]
        wrong = (gap < -rounding) + 0.5 * (np.abs(gap) <= rounding)
        sums.crossed[present] += np.add.reduceat(wrong[order], start)
        line = line[predicted[position] >= 0]
        answer = predicted[position][line]
        np.add.at(sums.crossed_taken, (own[line], answer), wrong[line, answer])
        within += np.bincount(own, weights=mine, minlength=n)
    unknown = (count[:, None] < 2) | (count < 1) | np.eye(n, dtype=bool)
    sums.crossed[unknown] = sums.crossed_taken[unknown] = np.nan
    return sums, within


def squared_to(
    rows: Float[np.ndarray, "row feature"], centroid: Float[np.ndarray, "class feature"]
) -> Float[np.ndarray, "row class"]:
    """Squared Euclidean distance of each row to each centroid, never below 0; NaN for a class without images."""
    squares = (rows * rows).sum(axis=1)[:, None] + (centroid * centroid).sum(axis=1)
    return np.maximum(squares - 2 * (rows @ centroid.T), 0)


def _effect(
    count: Int[np.ndarray, " class"],
    apart: Float[np.ndarray, "class other"],
    along: Float[np.ndarray, "class other"],
    within: Float[np.ndarray, " class"],
) -> Float[np.ndarray, "class other"]:
    by_chance = np.divide(within, count * (count - 1.0), out=np.full(len(count), np.nan), where=count > 1)
    beyond = np.maximum(apart - by_chance[:, None] - by_chance, 0)
    freedom = count[:, None] + count - 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (along + along.T) / apart / freedom
        value = np.sqrt(beyond / variance)
    # Nothing is apart where the centroids are one, however narrow the classes are.
    value[(apart == 0) & (freedom > 0)] = 0
    np.fill_diagonal(value, np.nan)
    return value


def _by_label(
    own: Int[np.ndarray, " row"],
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " present"], Int[np.ndarray, " present"]]:
    """Rows in the order of their labels, where each label begins, and the labels."""
    order = np.argsort(own, kind="stable")
    present, start = np.unique(own[order], return_index=True)
    return order, start, present
