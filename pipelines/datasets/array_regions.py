"""Where the object lies, for images and signals that lie in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from ...stages.errors import DataError
from .preprocessing import Preprocessing, placed
from .regions import box_mask
from .rows import Rows


@dataclass(frozen=True)
class ArrayRegions:
    """Boxes and masks of the images of an array; where an image has both, the mask counts.

    Parameters
    ----------
    boxes
        Of each image as `listed_regions` writes them.
    masks
        Row of each image's mask; ``""`` for none.
    rows
        Gives masks by row.
    space
        Length of each spatial axis of the images as stored.
    preprocessing
        How an image becomes network input; a region goes the same way through resize and crop.
    """

    boxes: Sequence[str]
    masks: Sequence[str]
    rows: Rows
    space: tuple[int, ...]
    preprocessing: Preprocessing

    def read(self, position: int) -> Bool[np.ndarray, "*space"] | None:
        """Where the object lies in the network's input; None for an image without box or mask.

        Raises
        ------
        ImageError
            When the image itself cannot be resized or cropped as is asked.
        """
        boxes, mask = self.boxes[position], self.masks[position]
        if not boxes and not mask:
            return None
        marked = np.asarray(self.rows[int(mask)]) != 0 if mask else self._marked(boxes)
        if len(self.space) == 1:
            return marked
        shown = Image.fromarray(marked.astype(np.uint8) * 255)
        return np.asarray(placed(shown, self.preprocessing, "nearest")) > 0

    def _marked(self, text: str) -> Bool[np.ndarray, "*space"]:
        corners = [tuple(float(word) for word in part.split()) for part in text.split(";")]
        if len(self.space) == 1:
            return box_mask([(start, 0.0, end, 1.0) for start, end in corners], 1, *self.space)[0]
        return box_mask([(x0, y0, x1, y1) for x0, y0, x1, y1 in corners], *self.space)


def listed_regions(held: Mapping[str, Any]) -> dict[str, list[str]]:
    """Columns of the index that say where the object lies, checked; none where there are neither boxes nor masks.

    Parameters
    ----------
    held
        Arrays by name: ``images``, and if there are any ``boxes`` ``(image, 4)`` or ``(image, box, 4)``, x0 y0 x1 y1 in
        pixels as stored, and for signals ``(image, 2)`` or ``(image, box, 2)``, start and end; a box of NaN, or of -1
        throughout, is none. ``masks`` have the images' shape without the channel.

    Raises
    ------
    DataError
        When a shape, a type or a box is not as it should be.
    """
    shape = tuple(held["images"].shape)
    found: dict[str, list[str]] = {}
    if "boxes" in held:
        found["box"] = _box_texts(np.asarray(held["boxes"][:]), (shape[0], *shape[2:]))
    if "masks" in held:
        found["mask"], found["mask_content"] = _mask_texts(held["masks"], (shape[0], *shape[2:]))
    return found


def _box_texts(boxes: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    corners = 2 * (len(shape) - 1)
    if boxes.ndim not in (2, 3) or boxes.shape[0] != shape[0] or boxes.shape[-1] != corners:
        wanted = f"({shape[0]}, {corners}) or ({shape[0]}, box, {corners})"
        raise DataError(f"data.path: boxes: expected shape {wanted}, got {boxes.shape}")
    if boxes.dtype.kind not in "uif":
        raise DataError(f"data.path: boxes: expected numbers, got {boxes.dtype}")
    number = boxes.reshape(shape[0], -1, corners).astype(np.float64)
    there = ~(np.isnan(number).all(axis=2) | (number == -1).all(axis=2))
    low, high = number[..., : corners // 2], number[..., corners // 2 :]
    wrong = there & ~(np.isfinite(number).all(axis=2) & (low < high).all(axis=2))
    if wrong.any():
        row, at = np.argwhere(wrong)[0]
        names = "start end with start < end" if corners == 2 else "x0 y0 x1 y1 with x0 < x1, y0 < y1"
        raise DataError(f"data.path: boxes: row {row}: expected {names}, got {number[row, at].tolist()}")
    return [
        "; ".join(" ".join(f"{value:.17g}" for value in box) for box in boxes[inside])
        for boxes, inside in zip(number, there, strict=True)
    ]


def _mask_texts(masks: Any, shape: tuple[int, ...]) -> tuple[list[str], list[str]]:
    if tuple(masks.shape) != shape:
        raise DataError(f"data.path: masks: expected shape {shape}, as the images have, got {tuple(masks.shape)}")
    if np.dtype(masks.dtype).kind not in "buif":
        raise DataError(f"data.path: masks: expected numbers or truth values, got {masks.dtype}")
    rows = Rows(masks)
    texts, contents = [], []
    for row in range(shape[0]):
        mask = np.asarray(rows[row])
        if mask.dtype.kind == "f" and not np.isfinite(mask).all():
            raise DataError(f"data.path: masks: row {row} holds NaN or infinite values; expected 0 outside the object")
        texts.append(str(row) if mask.any() else "")
        contents.append(hashlib.sha256(np.packbits(mask != 0).tobytes()).hexdigest() if mask.any() else "")
    return texts, contents
