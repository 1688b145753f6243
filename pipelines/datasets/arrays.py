"""Images or signals that lie in one array."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...stages.errors import ConfigError, DataError
from .array_regions import ArrayRegions, listed_regions
from .preprocessing import Preprocessing, prepare_array
from .rows import Rows
from .source import DataSource, Listing, Reader, existing, frame

_CHANNELS_LAST = (3, 4)
_HELD = ("images", "labels", "class_names", "ids", "boxes", "masks")


class ArrayReader(Reader):
    """Reads one row per image.

    Parameters
    ----------
    rows
        Gives rows ``(channel, *space)`` by number.
    keys
        Number of each image's row.
    preprocessing
        How a row becomes network input.
    regions
        Boxes and masks; None where there are none.
    """

    def __init__(
        self, rows: Any, keys: Sequence[str], preprocessing: Preprocessing, regions: ArrayRegions | None = None
    ) -> None:
        self._rows = rows
        self._keys = [int(key) for key in keys]
        self._preprocessing = preprocessing
        self._regions = regions

    def read(self, position: int) -> np.ndarray:
        """Prepare the row."""
        return prepare_array(self._rows[self._keys[position]], self._preprocessing)

    def content(self, position: int) -> str:
        """Hash type, shape and bytes of the row."""
        row = np.ascontiguousarray(self._rows[self._keys[position]])
        row = row.astype(row.dtype.newbyteorder("<"), copy=False)
        return hashlib.sha256(f"{row.dtype.str}{row.shape}".encode() + row.tobytes()).hexdigest()

    @property
    def has_regions(self) -> bool:
        """Whether any image comes with a box or mask."""
        return self._regions is not None

    def region(self, position: int) -> np.ndarray | None:
        """Bring the image's box or mask to the network's input."""
        return None if self._regions is None else self._regions.read(position)


@dataclass(frozen=True, kw_only=True)
class Arrays(DataSource):
    """An npz file or a Zarr group that holds all images.

    It holds ``images`` ``(image, channel, y, x)`` or ``(image, channel, time)``, ``labels`` ``(image,)`` with -1 for
    none, and may hold ``class_names`` and ``ids``, and where the object lies: ``boxes``, see `listed_regions`, and
    ``masks`` ``(image, y, x)`` or ``(image, time)``, not 0 where the object is; 0 throughout for none. Where an image
    has both, the mask counts.

    Parameters
    ----------
    path
        The npz file or the folder of the Zarr group.
    """

    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None or self.slices:
            name = "split" if self.split is not None else "slices"
            raise ConfigError(f"data.{name}: arrays have no such columns; use data=manifest, or an array per split")

    def listing(self) -> Listing:
        """Read labels, ids and names, and check the shape of the images."""
        held = open_arrays(existing(self.path, "data.path", "file or folder"))
        _check_images(held["images"])
        number = held["images"].shape[0]
        labels = _whole_labels(held, number)
        names = self.class_names or _names(held)
        worst = max(labels, default=-1)
        if worst >= len(names) or min(labels, default=0) < -1:
            wrong = worst if worst >= len(names) else min(labels)
            raise DataError(f"data.path: label {wrong} is outside -1..{len(names) - 1}, the range of the class names")
        ids = [str(name) for name in held["ids"][:]] if "ids" in held else [f"row-{row:06d}" for row in range(number)]
        if len(ids) != number:
            raise DataError(f"data.path: expected {number} ids, one per image, got {len(ids)}")
        return Listing(frame(ids, [str(row) for row in range(number)], labels, "", listed_regions(held)), names)

    def reader(self, table: pd.DataFrame) -> ArrayReader:
        """Reads the rows of `table`."""
        held = open_arrays(existing(self.path, "data.path", "file or folder"))
        keys, regions = table["key"].tolist(), None
        if "box" in table or "mask" in table:
            boxes, masks = ([*table[name]] if name in table else [""] * len(keys) for name in ("box", "mask"))
            space = tuple(held["images"].shape[2:])
            regions = ArrayRegions(boxes, masks, Rows(held.get("masks")), space, self.preprocessing)
        return ArrayReader(Rows(held["images"]), keys, self.preprocessing, regions)


def open_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an npz file or a Zarr group, by name.

    Raises
    ------
    DataError
        When it is neither, or has no images or no labels.
    """
    if path.is_dir():
        held = _open_zarr(path)
    else:
        stat = path.stat()
        held = _open_npz(path, stat.st_mtime_ns, stat.st_size)
    for name in ("images", "labels"):
        if name not in held:
            hint = "; unlabelled images have label -1" if name == "labels" else ""
            raise DataError(f"data.path: {path}: expected an array {name!r}, got {', '.join(held) or 'none'}{hint}")
    return held


# An npz is read whole; every shard of a run asks for it again.
@lru_cache(maxsize=1)
def _open_npz(path: Path, modified: int, size: int) -> dict[str, Any]:
    del modified, size
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        detail = "it holds pickled objects" if "pickle" in str(error) else "it is damaged or something else"
        raise DataError(f"data.path: {path}: cannot be read as an npz file of plain arrays: {detail}") from error


def _open_zarr(path: Path) -> dict[str, Any]:
    from ..store import open_array

    names = [name for name in _HELD if (path / name).is_dir()]
    if not names:
        raise DataError(f"data.path: {path}: expected a Zarr group with images and labels, got neither")
    return {name: open_array(path, name) for name in names}


def _check_images(images: Any) -> None:
    shape = tuple(images.shape)
    if len(shape) not in (3, 4):
        raise DataError(
            f"data.path: expected images (image, channel, y, x) or (image, channel, time), got shape {shape}"
        )
    if 0 in shape:
        raise DataError(f"data.path: there are no images, their shape is {shape}")
    if np.dtype(images.dtype).kind not in "uif":
        raise DataError(f"data.path: expected images of numbers, got {images.dtype}")
    if len(shape) == 4 and shape[-1] in _CHANNELS_LAST and shape[1] > max(_CHANNELS_LAST):
        raise DataError(f"data.path: images {shape} have their channels last; move them to the second axis")


def _whole_labels(held: dict[str, Any], number: int) -> list[int]:
    labels = np.asarray(held["labels"][:])
    if labels.ndim != 1:
        raise DataError(
            f"data.path: expected one label per image, got labels of shape {labels.shape}; "
            "multi-label and one-hot labels are not supported"
        )
    if len(labels) != number:
        raise DataError(f"data.path: expected {number} labels, one per image, got {len(labels)}")
    if labels.dtype.kind not in "ui":
        raise DataError(f"data.path: expected labels as whole numbers, got {labels.dtype}; regression is not supported")
    return [int(label) for label in labels]


def _names(held: dict[str, Any]) -> tuple[str, ...]:
    if "class_names" not in held:
        raise DataError("data.class_names: the file names no classes; give the names of all classes, in label order")
    return tuple(str(name) for name in held["class_names"][:])
