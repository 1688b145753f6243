"""Which images to look at closely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..selectors import select_images

_BOTH = "right_and_wrong"


def choose(
    selectors: Sequence[str],
    image_id: Sequence[str],
    label: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    valid: np.ndarray,
    budget: int,
) -> tuple[int, ...]:
    """Choose images by the selectors of `select_images`, or by ``"right_and_wrong:N"`` (`right_and_wrong`).

    Parameters
    ----------
    selectors
        In the order in which their images are wanted.
    image_id, label, predicted, confidence, valid
        As in `select_images`.
    budget
        Most images.

    Returns
    -------
    tuple of int
        Positions, each once; none where what is asked for does not exist.

    Raises
    ------
    ConfigError
        When an id is unknown or a number is missing.
    """
    chosen: dict[int, None] = {}
    for selector in selectors:
        kind, _, count = selector.partition(":")
        if kind == _BOTH:
            if not count.isdigit() or int(count) < 1:
                raise ConfigError(
                    f"image selector {selector!r}: expected a number of classes after the colon, got {count!r}"
                )
            found = right_and_wrong(label, predicted, confidence, valid, int(count))
        else:
            found = select_images(
                selector, image_id, label=label, predicted=predicted, confidence=confidence, valid=valid
            )
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)[:budget]


def right_and_wrong(
    label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, valid: np.ndarray, n: int
) -> tuple[int, ...]:
    """Choose the surest right and the surest wrong image of the classes with the most wrong ones.

    Parameters
    ----------
    label, predicted
        Class position of each image; -1 where there is none.
    confidence
        Softmax of the predicted class; NaN where there is none.
    valid
        Images that can be used.
    n
        Classes; ties go to the lower position, as ties of images do.

    Returns
    -------
    tuple of int
        Class by class, the right image first; a class may lack one of the two.
    """
    judged = valid & (label >= 0) & (predicted >= 0) & ~np.isnan(confidence)
    wrong = judged & (label != predicted)
    known = np.unique(label[judged])
    mistakes = np.array([np.sum(wrong & (label == c)) for c in known], int)
    found: list[int] = []
    for c in known[np.lexsort((known, -mistakes))][:n]:
        for group in (judged & ~wrong & (label == c), wrong & (label == c)):
            rows = np.flatnonzero(group)
            if len(rows):
                found.append(int(rows[np.argmax(confidence[rows])]))
    return tuple(found)
