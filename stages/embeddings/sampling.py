"""Which images a slow method places, and the few coordinates that it places them by."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ..numerics.seeds import numpy_generator
from .rows import Rows
from .spectra import enough, principal_components


def drawn(rows: Rows, most: int, seed: int, path: str) -> Rows:
    """All usable images, or `most` of them drawn without replacement; `path` names the stream of the numbers."""
    position = np.flatnonzero(rows.usable)
    if len(position) <= most:
        return rows
    chosen = numpy_generator(seed, path, "sample").choice(len(position), most, replace=False)
    return rows.sample(position[np.sort(chosen)])


def condensed(rows: Rows, most: int, seed: int, path: str) -> Float[np.ndarray, "image direction"]:
    """Principal coordinates, `most` of them or as many as the features have, but two at least.

    Raises
    ------
    ConfigError
        When all features are the same.
    """
    found = principal_components(rows, most, seed, path)
    enough(1, found.rank, rows.shape, path)
    coordinate = found.first(found.rank).project(rows)
    return np.pad(coordinate, ((0, 0), (0, max(0, 2 - coordinate.shape[1]))))


def on_all(rows: Rows, chosen: Rows, place: Float[np.ndarray, "chosen k"]) -> Float[np.ndarray, "image k"]:
    """Places of all usable images: NaN for those that were not drawn."""
    found = np.full((len(rows), place.shape[1]), np.nan)
    found[chosen.usable[rows.usable]] = place
    return found


def sampled_note(n: int, most: int) -> dict[str, Any]:
    """What the report says of the sample; nothing where all images took part."""
    if n <= most:
        return {}
    return {"sampled": f"placed {most:,} of {n:,} usable images, drawn at random without replacement"}
