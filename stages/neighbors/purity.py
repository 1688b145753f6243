"""Purity and accuracy of neighbors, by class and by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.statistics import wilson


def by_value(
    value: Sequence[object],
    order: Sequence[object],
    agreement: Float[np.ndarray, " image"],
    right: Bool[np.ndarray, " image"],
    head_right: Bool[np.ndarray, " image"],
    judged: Bool[np.ndarray, " image"],
) -> list[dict[str, Any]]:
    """One row for each value: images judged, mean share of neighbors of the own label, accuracy of neighbors and head.

    Parameters
    ----------
    value
        One for each image.
    order
        Which of them to tell of, and in which order.
    agreement
        Share of labelled neighbors with the image's own label; NaN for unknown.
    right, head_right
        Whether neighbors and head give the label.
    judged
        Images that count.
    """
    code = {key: place for place, key in enumerate(order)}
    place: Int[np.ndarray, " image"] = np.array([code.get(each, -1) for each in value], int)
    return [_row(key, judged & (place == at), agreement, right, head_right) for at, key in enumerate(order)]


def _row(
    key: object, mask: np.ndarray, agreement: np.ndarray, right: np.ndarray, head_right: np.ndarray
) -> dict[str, Any]:
    n = int(mask.sum())
    if not n:
        return {"value": key, "n": 0, "purity": None, "accuracy": None, "low": None, "high": None, "head": None}
    hits = int(right[mask].sum())
    low, high = wilson(hits, n)
    return {
        "value": key,
        "n": n,
        "purity": float(agreement[mask].mean()),
        "accuracy": hits / n,
        "low": low,
        "high": high,
        "head": int(head_right[mask].sum()) / n,
    }
