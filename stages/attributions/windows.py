"""Windows that slide over an image, and heatmaps from the scores under them; numpy only, so that reports can use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import StageError
from .scores import target_scores


def intervals(length: int, window: int, stride: int) -> tuple[list[int], list[int]]:
    """Where windows start and end along one axis.

    They start at 0 and follow each other until one reaches the end of the axis; what sticks out of it is cut off.

    Parameters
    ----------
    length
        Of the axis, in pixels.
    window
        Pixels of a window, at most `length`.
    stride
        Pixels from one start to the next, at most `window`, so that every pixel is covered.

    Returns
    -------
    tuple
        Starts, and ends: the first pixel after each window.
    """
    starts = [place * stride for place in range(1 + -(-(length - window) // stride))]
    return starts, [min(start + window, length) for start in starts]


def window_bounds(
    start: Sequence[Sequence[int]], end: Sequence[Sequence[int]]
) -> tuple[Int[np.ndarray, "axis window"], Int[np.ndarray, "axis window"]]:
    """Start and end of every window along every axis; those along the last axis follow each other."""
    bounds = (np.meshgrid(*[np.asarray(axis, np.int64) for axis in part], indexing="ij") for part in (start, end))
    first, last = (np.stack([axis.reshape(-1) for axis in part]) for part in bounds)
    return first, last


def drop_map(
    drop: Float[np.ndarray, "target window"], start: Sequence[Sequence[int]], end: Sequence[Sequence[int]], space: Any
) -> Float[np.ndarray, "target ..."]:
    """Average, at each pixel, the drops of the windows that cover it.

    Parameters
    ----------
    drop
        How much lower each target scores under each window.
    start, end
        Of the windows along each axis.
    space
        Shape of the image.

    Returns
    -------
    Float[np.ndarray, "target ..."]
        In float64; NaN where no window covers a pixel.
    """
    found = np.asarray(drop, np.float64).reshape(len(drop), *(len(axis) for axis in start))
    coverage = np.ones((1,) * len(start))
    for axis, (first, last, length) in enumerate(zip(start, end, space, strict=True)):
        pixel = np.arange(length)
        covers = (pixel >= np.asarray(first)[:, None]) & (pixel < np.asarray(last)[:, None])
        found = np.moveaxis(np.tensordot(found, covers.astype(np.float64), axes=(axis + 1, 0)), -1, axis + 1)
        coverage = coverage * covers.sum(axis=0).reshape([-1 if a == axis else 1 for a in range(len(start))])
    return np.where(coverage > 0, found / np.maximum(coverage, 1), np.nan)


def render_windows(
    row: Mapping[str, np.ndarray], rendering: Mapping[str, Any], input_shape: Sequence[int]
) -> Float[np.ndarray, "target ..."]:
    """The occlusion map of each target of one image (Zeiler and Fergus 2014, section 4.2).

    Parameters
    ----------
    row
        What is stored for the image: scores under the windows and of the image as it is, ``target``.
    rendering
        What the leaf noted: ``start`` and ``end`` of the windows along each axis.
    input_shape
        ``(channel, *space)``.

    Returns
    -------
    Float[np.ndarray, "target ..."]
        Mean drop of the target's score over the windows that cover a pixel, in the unit of the score: above 0 where
        the target rests on what is there. NaN where the image has no such target.

    Raises
    ------
    StageError
        When the notes and the scores do not have the same number of windows.
    """
    start, end = rendering["start"], rendering["end"]
    scores = target_scores(row)
    expected = math.prod(len(axis) for axis in start)
    if scores.shape[1] != expected:
        raise StageError(f"occlusion: expected scores of the {expected} windows that are noted, got {scores.shape[1]}")
    return drop_map(target_scores(row, "base")[:, None] - scores, start, end, tuple(input_shape[1:]))


def winning_classes(row: Mapping[str, np.ndarray], rendering: Mapping[str, Any]) -> Int[np.ndarray, " ..."]:
    """What the network takes the image for under each window (Zeiler and Fergus 2014, figure 7e).

    Parameters
    ----------
    row, rendering
        As in `render_windows`.

    Returns
    -------
    Int[np.ndarray, "..."]
        Class with the largest score, one cell per window, in the order of the windows along each axis; -1 where it is
        not known.
    """
    shape = tuple(len(axis) for axis in rendering["start"])
    if "winner" in row:
        return np.asarray(row["winner"], np.int64).reshape(shape)
    scores = np.asarray(row["score"], np.float64)
    known = np.isfinite(scores).all(axis=1)
    best = np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1)
    return np.where(known, best, -1).reshape(shape)
