"""What an embedding method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from ..specs import ArraySpec, SizedArray, Summary


@dataclass(frozen=True)
class Embedded:
    """What a method makes of features.

    Parameters
    ----------
    coordinate
        Place of each image.
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
    def embed(self, features: Float[np.ndarray, "image feature"], seed: int, path: str) -> Embedded:
        """Place images.

        Parameters
        ----------
        features
            One finite row per usable image; must not be written on.
        seed
            Root of every random number.
        path
            Full name of the leaf, for messages.
        """

    def describe(self, arrays: Mapping[str, np.ndarray], n: int, path: str) -> Summary:
        """Numbers and notes from the arrays of `embed`, for `n` images and the leaf called `path`."""
        del arrays, n, path
        return Summary()
