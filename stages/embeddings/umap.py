"""UMAP (mcinnes2018) by umap-learn, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..numerics.seeds import stable_seed
from ..specs import Summary
from .method import Embedded, Method
from .rows import Rows
from .sampling import condensed, drawn, on_all, sampled_note


@dataclass(frozen=True)
class UMAP(Method):
    """A plane in which images that are near in feature space stay near; far ones may lie anywhere.

    The library repeats itself to the bit with one thread alone, so it gets one, whatever `numerics.threads` says. It
    starts from the principal components.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are embedded.
    neighbors
        How many neighbors each image keeps near, itself included.
    gap
        Least distance between points, in units of the map, 0 to 1.
    directions
        Principal components that the features are first reduced to.
    sample
        Images at most; more are drawn at random.
    """

    layer: str = "penultimate"
    neighbors: int = 15
    gap: float = 0.1
    directions: int = 50
    sample: int = 20_000

    components: ClassVar[int] = 2  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        for name, value, least in (("neighbors", self.neighbors, 2), ("directions", self.directions, 2),
                                   ("sample", self.sample, 4)):  # fmt: skip
            if value < least:
                raise ConfigError(f"embeddings.methods.umap.{name}: expected {least} or more, got {value}")
        if not 0 <= self.gap <= 1:
            raise ConfigError(f"embeddings.methods.umap.gap: expected 0 to 1, got {self.gap}")

    def embed(self, rows: Rows, seed: int, path: str) -> Embedded:
        """Place a sample of the images.

        Raises
        ------
        ConfigError
            When umap-learn is not installed, there are fewer images than neighbors, or all features are the same.
        """
        library = _library(path)
        chosen = drawn(rows, self.sample, seed, path)
        if len(chosen) <= self.neighbors:
            raise ConfigError(
                f"{path}: {self.neighbors} neighbors need more than {self.neighbors} usable images, got {len(chosen)}; "
                "set a smaller number of neighbors"
            )
        reduced = condensed(chosen, self.directions, seed, path).astype(np.float32)
        # The library wants a start of about this size.
        start = 10 * reduced[:, :2] / np.abs(reduced[:, :2]).max()
        place = library.UMAP(
            n_neighbors=self.neighbors,
            min_dist=self.gap,
            init=start,
            random_state=stable_seed(seed, "embeddings", "UMAP") % 2**32,
            n_jobs=1,
        ).fit_transform(reduced)
        return Embedded(on_all(rows, chosen, np.asarray(place, np.float64)))

    def describe(self, arrays: Mapping[str, Any], n: int, path: str) -> Summary:
        """What was sampled."""
        del arrays, path
        return Summary(notes=sampled_note(n, self.sample))


def _library(path: str) -> Any:
    try:
        import umap
    except ImportError as error:
        raise ConfigError(f"{path}: umap-learn is not installed; pip install 'convaudit[umap]'") from error
    return umap
