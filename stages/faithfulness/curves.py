"""Deletion and insertion: how fast the answer goes, or comes, as the positions a heatmap names go or come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Takes network input ``(n, channel, *space)``, gives logits ``(n, class)``.
Call = Callable[[Tensor], Tensor]


def ranked(heatmap: Float[np.ndarray, "image ..."]) -> Int[np.ndarray, "image ..."]:
    """Number the positions of each heatmap from its largest value (0) to its smallest; equals in reading order."""
    flat = heatmap.reshape(len(heatmap), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(flat.shape[1]), order.shape), axis=1)
    return rank.reshape(heatmap.shape)


def step_counts(positions: int, steps: int) -> Int[np.ndarray, " step"]:
    """How many positions are replaced at each point of a curve.

    Parameters
    ----------
    positions
        Positions of an image.
    steps
        Parts of nearly equal size that they are cut into, at most as many as there are positions.

    Returns
    -------
    Int[np.ndarray, " step"]
        From 0 to `positions`, ascending: ``steps + 1`` numbers, the last ones all equal where positions are fewer.
    """
    parts = min(steps, positions)
    counts = np.arange(parts + 1) * positions // parts
    return np.concatenate([counts, np.full(steps - parts, positions)])


def probability(
    logits: Float[Tensor, "image class"], classes: Int[np.ndarray, " image"]
) -> Float[np.ndarray, " image"]:
    """Softmax of one class per image, in double precision."""
    shares = torch.softmax(logits.double(), dim=1).cpu().numpy()
    return shares[np.arange(len(classes)), classes]


def curve(
    call: Call,
    first: Float[Tensor, "image channel *space"],
    last: Float[Tensor, "image channel *space"],
    ranks: Sequence[Int[np.ndarray, "image ..."]],
    classes: Int[np.ndarray, " image"],
    counts: Int[np.ndarray, " step"],
    ends: tuple[np.ndarray, np.ndarray],
    most: int,
) -> Float[np.ndarray, "order image step"]:
    """Probability of a class while positions of one image are replaced by those of another, in given orders.

    Deletion of petsiuk2018 (algorithm 1) goes from the image to a baseline, insertion from a blurred image to the
    image; the most important position goes first in both.

    Parameters
    ----------
    call
        The network.
    first, last
        Images before any and after every replacement.
    ranks
        For each order, which position is replaced when, counted from 0.
    classes
        Whose probability is followed.
    counts
        How many positions are replaced at each point, from none to all.
    ends
        Probability at `first` and at `last`, which every order shares.
    most
        Images per call of the network.
    """
    found = np.empty((len(ranks), len(first), len(counts)))
    found[:, :, 0] = ends[0]
    found[:, :, counts == counts[-1]] = ends[1][:, None]
    inner = [
        (order, step) for order in range(len(ranks)) for step in range(1, len(counts)) if counts[step] < counts[-1]
    ]
    orders = [torch.from_numpy(np.ascontiguousarray(rank)).to(first.device) for rank in ranks]
    last_format = _layout(first)
    together = max(1, most // max(1, len(first)))
    for start in range(0, len(inner), together):
        points = inner[start : start + together]
        replaced = torch.stack([orders[order] < int(counts[step]) for order, step in points])
        mixed = torch.where(replaced.unsqueeze(2), last, first).flatten(0, 1)
        values = probability(call(mixed.contiguous(memory_format=last_format)), np.tile(classes, len(points)))
        for (order, step), value in zip(points, values.reshape(len(points), -1), strict=True):
            found[order, :, step] = value
    return found


def _layout(images: Tensor) -> torch.memory_format:
    last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not images.is_contiguous() else torch.contiguous_format


def area(values: Float[np.ndarray, "*curve step"], counts: Int[np.ndarray, " step"]) -> Float[np.ndarray, "*curve"]:
    """Area under a curve over the share of positions replaced, by trapezoids of their true widths.

    Parameters
    ----------
    values
        Between 0 and 1.
    counts
        Positions replaced at each point, from 0 to all; parts need not be equal.
    """
    width = np.diff(counts) / counts[-1]
    return ((values[..., 1:] + values[..., :-1]) / 2 * width).sum(axis=-1)
