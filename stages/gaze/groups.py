"""Images that are looked at together: those of a class that are right, and those of a pair that is confused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit


def group_sides(
    label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"], n_class: int, pairs: int
) -> Int[np.ndarray, "group side"]:
    """Label and prediction of every group: first all classes, then the pairs that are confused most often.

    Parameters
    ----------
    label, predicted
        Class positions; -1 for none.
    n_class
        Number of classes.
    pairs
        Room for how many pairs. They come by falling number of images; ties by label, then by prediction.

    Returns
    -------
    ndarray
        ``(n_class + pairs, 2)``; -1 where fewer pairs are confused.
    """
    wrong = (label >= 0) & (predicted >= 0) & (label != predicted)
    code, count = np.unique(label[wrong].astype(np.int64) * n_class + predicted[wrong], return_counts=True)
    code = code[np.argsort(-count, kind="stable")][:pairs]
    sides = np.full((n_class + pairs, 2), -1, np.int32)
    sides[:n_class] = np.arange(n_class)[:, None]
    sides[n_class : n_class + len(code)] = np.stack([code // n_class, code % n_class], axis=1)
    return sides


def members(
    sides: Int[np.ndarray, "group side"], label: Int[np.ndarray, " image"], predicted: Int[np.ndarray, " image"]
) -> Int[np.ndarray, " image"]:
    """Group of each image; -1 for one that is in none."""
    n = int(max(sides.max(initial=0), label.max(initial=0), predicted.max(initial=0))) + 1
    used = np.flatnonzero(sides[:, 0] >= 0)
    code = sides[used].astype(np.int64) @ np.array([n, 1])
    order = np.argsort(code)
    own = np.where((label >= 0) & (predicted >= 0), label.astype(np.int64) * n + predicted, -1)
    place = np.minimum(np.searchsorted(code[order], own), len(code) - 1)
    return np.where(code[order][place] == own, used[order][place], -1)


def mean_maps(
    blocks: Iterable[tuple[Int[np.ndarray, " image"], Float[np.ndarray, "image ..."]]],
    n_group: int,
    grid: tuple[int, ...],
) -> tuple[Float[np.ndarray, "group ..."], Int[np.ndarray, " group"]]:
    """Mean map and number of images of every group, from one block of images after the other.

    Image is added to image in their order, so that the sums do not depend on how the images are cut into blocks.

    Parameters
    ----------
    blocks
        Group of each image, -1 for one that does not count, and its map.
    n_group, grid
        Sizes of the result.

    Returns
    -------
    tuple of ndarray
        Float64, NaN for a group without images; and the number of images.
    """
    total, count = np.zeros((n_group, *grid)), np.zeros(n_group, np.int64)
    for group, shares in blocks:
        counted = group >= 0
        np.add.at(total, group[counted], shares[counted].astype(np.float64))
        count += np.bincount(group[counted], minlength=n_group)
    divisor = np.where(count > 0, count, np.nan)
    return total / divisor.reshape(-1, *(1,) * len(grid)), count


@dataclass(frozen=True)
class Means:
    """Mean of a number over the images of each group, with its 95 % bounds by Student's t.

    Parameters
    ----------
    value
        NaN for a group without images.
    bound
        Lower and upper; NaN for fewer than two images.
    """

    value: Float[np.ndarray, " group"]
    bound: Float[np.ndarray, "group bound"]


def means(values: Float[np.ndarray, " image"], group: Int[np.ndarray, " image"], n_group: int, highest: float) -> Means:
    """Mean of a number over the images of each group.

    Parameters
    ----------
    values
        One number per image, from 0 to `highest`; those that are not finite do not count.
    group
        Group of each image; -1 for none.
    n_group
        Number of groups.
    highest
        Largest value there can be: bounds beyond it, or below 0, are those ends.
    """
    counted = (group >= 0) & np.isfinite(values)
    own, known = group[counted], values[counted].astype(np.float64)
    n = np.bincount(own, minlength=n_group).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(own, known, minlength=n_group) / n
        variance = np.bincount(own, np.square(known - mean[own]), minlength=n_group) / (n - 1)
        half = stdtrit(np.where(n > 1, n - 1, np.nan), 0.975) * np.sqrt(variance / n)
    bound = np.stack([np.maximum(mean - half, 0), np.minimum(mean + half, highest)], axis=1)
    return Means(mean, bound)
