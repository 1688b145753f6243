"""scikit-learn's handwritten digits as the reference network sees them, and which of them it never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..errors import DataError

#: Names of the classes in label order.
CLASS_NAMES = tuple(str(digit) for digit in range(10))
#: Share of the images that is kept for the audit, the same share of every class.
TEST_SHARE = 0.3
SPLIT_SEED = 0
SIDE = 32
_HIGHEST = 16.0


def load_digits_split(path: Path | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load the digits, enlarged to 32x32, and tell which are for testing.

    The scans are 8x8 pixels with values 0..16. They are enlarged bilinearly and divided by 16.

    Parameters
    ----------
    path
        An export by `save_digits`; None takes the copy that comes with scikit-learn.

    Returns
    -------
    images
        Shape ``(image, 1, 32, 32)``, float32 in [0, 1].
    labels
        Shape ``(image,)``, int64 in 0..9.
    is_test
        Shape ``(image,)``, bool; 30 % of every class, drawn with seed 0.

    Raises
    ------
    DataError
        When the export is missing or holds something else.
    """
    from sklearn.model_selection import train_test_split

    scans, labels = _bundled() if path is None else _exported(path)
    positions = np.arange(len(labels))
    _, test = train_test_split(positions, test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[test] = True
    images = enlarge(scans.astype(np.float32) / np.float32(_HIGHEST), SIDE)
    return images[:, None], labels.astype(np.int64), is_test


def save_digits(path: Path) -> None:
    """Write the scans that come with scikit-learn to an npz file that `load_digits_split` reads."""
    scans, labels = _bundled()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=scans.astype(np.uint8), labels=labels.astype(np.int64))


def _bundled() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _exported(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            scans, labels = archive["images"], archive["labels"]
    except FileNotFoundError:
        raise DataError(f"data.path: {path}: no such file; leave data.path null for scikit-learn's own copy") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"data.path: {path}: expected an npz file with images and labels") from error
    if scans.ndim != 3 or scans.shape[1:] != (8, 8) or labels.shape != scans.shape[:1]:
        raise DataError(
            f"data.path: {path}: expected images (n, 8, 8) and labels (n,), got {scans.shape}, {labels.shape}"
        )
    return scans, labels


def enlarge(images: Float[np.ndarray, "image y x"], side: int) -> Float[np.ndarray, "image side side"]:
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
