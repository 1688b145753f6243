"""Images that lie in files of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...stages.errors import ImageError
from .decode import decode, read_bytes
from .preprocessing import Preprocessing
from .regions import Regions
from .source import Reader


class FileReader(Reader):
    """Reads one file per image.

    Parameters
    ----------
    root
        Folder that keys start at.
    keys
        Path of each image below it, in POSIX form.
    preprocessing
        How an image becomes network input.
    regions
        Boxes and masks; None where there are none.
    """

    def __init__(
        self, root: Path, keys: Sequence[str], preprocessing: Preprocessing, regions: Regions | None = None
    ) -> None:
        self._root = root
        self._keys = list(keys)
        self._preprocessing = preprocessing
        self._regions = regions

    def read(self, position: int) -> np.ndarray:
        """Decode the file."""
        return decode(read_bytes(self._root / self._keys[position]), self._preprocessing)

    def content(self, position: int) -> str:
        """Hash the file's bytes, whether or not they are an image."""
        try:
            return hashlib.sha256(read_bytes(self._root / self._keys[position])).hexdigest()
        except ImageError as error:
            return hashlib.sha256(b"").hexdigest() if error.code == "empty" else ""

    @property
    def has_regions(self) -> bool:
        """Whether any image comes with a box or mask."""
        return self._regions is not None

    def region(self, position: int) -> np.ndarray | None:
        """Bring the image's box or mask to the network's input."""
        return None if self._regions is None else self._regions.read(position)
