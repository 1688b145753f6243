"""Rows of an array by position, read a chunk at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

_KEPT_BLOCKS = 2


class Rows:
    """Rows of an array by position, read a chunk at a time and kept while they are near.

    Parameters
    ----------
    array
        Anything that slices to numpy along its first axis; where it has chunks, they are read whole.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self._step = int(array.chunks[0]) if getattr(array, "chunks", None) else 0
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, position: int) -> np.ndarray:
        """One row."""
        if not self._step:
            return np.asarray(self._array[position])
        number, inside = divmod(position, self._step)
        with self._lock:
            if number not in self._blocks:
                start = number * self._step
                self._blocks[number] = np.asarray(self._array[start : start + self._step])
                while len(self._blocks) > _KEPT_BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return self._blocks[number][inside]
