"""What an embedding method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from ..specs import ArraySpec, SizedArray, Summary
from .rows import Rows


@dataclass(frozen=True)
class Embedded:
    """What a method makes of features.

    Parameters
    ----------
    coordinate
        Place of each usable image; NaN for those that the method left out.
    arrays
        The method's other arrays, by path; each of them is written.
    """

    coordinate: Float[np.ndarray, "image component"]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class Method(ABC):
    """Places images by their features; a frozen dataclass whose fields are its Hydra config."""

    #: Selector of the one layer whose stored features are embedded.
    layer: str
    #: Axes of the embedding.
    components: int

    #: Arrays it writes beside the coordinates.
    documents: ClassVar[tuple[ArraySpec, ...]] = ()

    def writes(self, feature: int) -> tuple[SizedArray, ...]:
        """Its arrays beside the coordinates, for features of that length."""
        del feature
        return ()

    @abstractmethod
    def embed(self, rows: Rows, seed: int, path: str) -> Embedded:
        """Place images.

        Parameters
        ----------
        rows
            Features of the usable images, at least one.
        seed
            Root of every random number.
        path
            Full name of the leaf, for messages.
        """

    def describe(self, arrays: Mapping[str, Any], n: int, path: str) -> Summary:
        """Numbers and notes from the arrays of `embed`, for `n` usable images and the leaf called `path`."""
        del arrays, n, path
        return Summary()
