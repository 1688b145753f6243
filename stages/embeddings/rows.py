"""Features that are read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

# Numbers in double precision held at once, and rows at once whatever their length.
_HELD, _FEWEST, _MOST = 1 << 22, 64, 4096


@dataclass(frozen=True)
class Rows:
    """Features of the images that can be used, of which never more than a block is held.

    Parameters
    ----------
    stored
        Anything whose slices are arrays ``(image, feature)``, float32.
    usable
        Which images take part; their features are finite.
    width
        Features of one image.
    """

    stored: Any
    usable: Bool[np.ndarray, " image"]
    width: int

    @classmethod
    def finite(cls, stored: Any, valid: Bool[np.ndarray, " image"], width: int) -> Rows:
        """The images of `valid` whose features are finite; reads them once."""
        usable = np.array(valid, bool)
        for a, b in _ranges(len(usable), width):
            usable[a:b] &= np.isfinite(np.asarray(stored[a:b])).all(axis=1)
        return cls(stored, usable, width)

    def __len__(self) -> int:
        return int(self.usable.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Usable images, and features of each."""
        return len(self), self.width

    def blocks(self) -> Iterator[tuple[Int[np.ndarray, " row"], Float[np.ndarray, "row feature"]]]:
        """Positions and features, in float64, of the usable images; the bounds depend on the stored shape alone."""
        for a, b in _ranges(len(self.usable), self.width):
            kept = np.flatnonzero(self.usable[a:b])
            if len(kept):
                yield a + kept, np.asarray(self.stored[a:b])[kept].astype(np.float64)

    def sample(self, chosen: Int[np.ndarray, " chosen"]) -> Rows:
        """Only the images at these positions."""
        usable = np.zeros_like(self.usable)
        usable[chosen] = True
        return Rows(self.stored, usable & self.usable, self.width)


def _ranges(n: int, width: int) -> Iterator[tuple[int, int]]:
    step = min(_MOST, max(_FEWEST, _HELD // max(1, width)))
    return ((a, min(a + step, n)) for a in range(0, n, step))
