"""scikit-learn's handwritten digits as the reference network sees them, and which of them it never trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

#: Names of the classes in label order.
CLASS_NAMES = tuple(str(digit) for digit in range(10))
#: Share of the images that is kept for the audit, the same share of every class.
TEST_SHARE = 0.3
SPLIT_SEED = 0
SIDE = 32
_HIGHEST = 16.0


def load_digits_split() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load the digits, enlarged to 32x32, and tell which are for testing.

    The scans are 8x8 pixels with values 0..16. They are enlarged bilinearly and divided by 16.

    Returns
    -------
    images
        Shape ``(image, 1, 32, 32)``, float32 in [0, 1].
    labels
        Shape ``(image,)``, int64 in 0..9.
    is_test
        Shape ``(image,)``, bool; 30 % of every class, drawn with seed 0.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits: Any = load_digits()
    scans, labels = digits.images, digits.target
    positions = np.arange(len(labels))
    _, test = train_test_split(positions, test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[test] = True
    images = enlarge(scans.astype(np.float32) / np.float32(_HIGHEST), SIDE)
    return images[:, None], labels.astype(np.int64), is_test


def enlarge(images: Float[np.ndarray, "image y x"], side: int) -> Float[np.ndarray, "image tall wide"]:
    """Enlarge square images bilinearly, pixel centres at half-integers, edges repeated.

    Element by element rather than as a matrix product, so that the bytes do not hang on a BLAS.
    """
    size = images.shape[-1]
    centre = np.clip((np.arange(side) + 0.5) * (size / side) - 0.5, 0, size - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, size - 1)
    share = (centre - low).astype(images.dtype)
    rows = images[:, low, :] * (1 - share)[:, None] + images[:, high, :] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, high] * share
