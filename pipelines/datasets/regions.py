"""Where the object lies in an image, as boxes or a mask, brought to what the network sees."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from ...stages.errors import DataError, ImageError, in_words
from .decode import read_bytes
from .preprocessing import Preprocessing, placed

#: Columns of an index that say where the object lies; ``mask_content`` is the sha256 of the mask's file.
REGION_COLUMNS = ("box", "mask", "mask_content")
_ORIENTATION = 0x0112

Box = tuple[float, float, float, float]


def parse_boxes(text: str, row: int) -> tuple[Box, ...]:
    """Read boxes from a cell of a table.

    Parameters
    ----------
    text
        ``"x0 y0 x1 y1"`` in pixels of the file, several with ``;`` between them; ``""`` for none.
    row
        Of the table, for the message.

    Raises
    ------
    DataError
        When it is not four finite numbers with x0 < x1 and y0 < y1.
    """
    boxes = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        try:
            box = tuple(float(word) for word in part.replace(",", " ").split())
        except ValueError:
            box = ()
        if len(box) != 4 or not all(map(math.isfinite, box)) or not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(f"data.box_column: row {row}: expected 'x0 y0 x1 y1' with x0 < x1, y0 < y1, got {part!r}")
        boxes.append(box)
    return tuple(boxes)


def box_mask(boxes: Sequence[Box], height: int, width: int) -> Bool[np.ndarray, "y x"]:
    """Mark the pixels whose middle lies in one of some boxes; pixel 0 reaches from 0 to 1."""
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    marked = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        marked |= (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    return marked


@dataclass(frozen=True)
class Regions:
    """Boxes and masks of files below one folder; where an image has both, the mask counts.

    Parameters
    ----------
    root
        Folder that paths start at.
    keys
        Path of each image.
    boxes
        Boxes of each image as text, see `parse_boxes`.
    masks
        Path of each mask, an image file of the size of its image, other than 0 where the object is; ``""`` for none.
    preprocessing
        How an image becomes network input; a region goes the same way through resize and crop.
    """

    root: Path
    keys: Sequence[str]
    boxes: Sequence[str]
    masks: Sequence[str]
    preprocessing: Preprocessing

    def read(self, position: int) -> Bool[np.ndarray, "y x"] | None:
        """Where the object lies in the network's input; None for an image without box or mask.

        Raises
        ------
        DataError
            When a mask cannot be read, or is not of the size of its image.
        ImageError
            When the image itself cannot be used.
        """
        boxes, mask = parse_boxes(self.boxes[position], position), self.masks[position]
        if not boxes and not mask:
            return None
        try:
            with Image.open(self.root / self.keys[position]) as picture:
                size, orientation = picture.size, picture.getexif().get(_ORIENTATION, 1)
        except Exception as error:
            raise ImageError("undecodable", in_words(error)) from error
        marked = self._mask(position, size) if mask else box_mask(boxes, size[1], size[0])
        shown = Image.fromarray(marked.astype(np.uint8) * 255)
        if self.preprocessing.exif:
            shown.getexif()[_ORIENTATION] = orientation
            shown = ImageOps.exif_transpose(shown)
        return np.asarray(placed(shown, self.preprocessing, "nearest")) > 0

    def _mask(self, position: int, size: tuple[int, int]) -> np.ndarray:
        name = self.masks[position]
        where = f"data.mask_column: {name}, the mask of {self.keys[position]}"
        try:
            with Image.open(self.root / name) as picture:
                # Of a palette the numbers count, not the colours they stand for.
                values = np.asarray(picture if picture.mode in ("P", "L", "1", "I", "I;16") else picture.convert("L"))
                found = picture.size
        except Exception as error:
            raise DataError(f"{where}: cannot be read: {in_words(error)}") from error
        if found != size:
            raise DataError(f"{where}: expected {size[1]}x{size[0]} pixels as the image has, got {found[1]}x{found[0]}")
        return values != 0


def mask_contents(root: Path, masks: Sequence[str]) -> list[str]:
    """Sha256 of each mask's file as hex; ``""`` for none.

    Raises
    ------
    DataError
        When a file is missing or empty.
    """
    found = []
    for row, name in enumerate(masks):
        try:
            found.append(hashlib.sha256(read_bytes(root / name)).hexdigest() if name else "")
        except ImageError as error:
            raise DataError(f"data.mask_column: row {row}: {name}: {error.reason}") from None
    return found
