"""Principal component analysis (jolliffe2002), out of core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from .method import Embedded, Method
from .rows import Rows
from .spectra import enough, principal_components

COMPONENT = ArraySpec(
    "component", ("component", "feature"), "float32", "1", "Directions of largest variance, of length 1."
)
EXPLAINED = ArraySpec("explained", ("component",), "float32", "1", "Share of the total variance along each direction.")
CENTRE = ArraySpec("centre", ("feature",), "float32", "activation", "Mean of the features, which was taken off.")
SCREE = ArraySpec(
    "scree",
    ("direction",),
    "float32",
    "1",
    "The same for more directions, strongest first; NaN beyond the number of features, or of images less one.",
)


@dataclass(frozen=True)
class PCA(Method):
    """Coordinates along the directions in which features vary most.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are embedded.
    components
        How many directions; at most the rank of the features.
    scree
        How many directions to give the share of variance of.
    """

    layer: str = "penultimate"
    components: int = 2
    scree: int = 20

    documents: ClassVar[tuple[ArraySpec, ...]] = (COMPONENT, EXPLAINED, CENTRE, SCREE)

    def __post_init__(self) -> None:
        for name, value in (("components", self.components), ("scree", self.scree)):
            if value < 1:
                raise ConfigError(f"embeddings.methods.pca.{name}: expected 1 or more, got {value}")

    def writes(self, feature: int) -> tuple[SizedArray, ...]:
        """Directions, shares and centre."""
        k = self.components
        return (
            COMPONENT.sized((k, feature)),
            EXPLAINED.sized((k,)),
            CENTRE.sized((feature,)),
            SCREE.sized((self.scree,)),
        )

    def embed(self, rows: Rows, seed: int, path: str) -> Embedded:
        """Project the features onto their principal components.

        Raises
        ------
        ConfigError
            When the features have fewer independent directions than `components`.
        """
        k = self.components
        enough(k, min(len(rows) - 1, rows.width), rows.shape, path)
        found = principal_components(rows, max(k, self.scree), seed, path)
        enough(k, found.rank, rows.shape, path)
        scree = np.full(self.scree, np.nan)
        shown = found.explained[: self.scree]
        scree[: len(shown)] = shown
        arrays = {
            "component": found.component[:k],
            "explained": found.explained[:k],
            "centre": found.centre,
            "scree": scree,
        }
        return Embedded(
            found.first(k).project(rows).astype(np.float32),
            {name: values.astype(np.float32) for name, values in arrays.items()},
        )

    def describe(self, arrays: Mapping[str, Any], n: int, path: str) -> Summary:
        """The share of the variance that the picture shows."""
        told = f"Share of the variance of the features along the first {self.components} principal components."
        share = float(arrays["explained"].sum(dtype=np.float64))
        measurement = Measurement(f"{path}_explained", share, "1", "neither", n, f"{path}/explained", told)
        return Summary(measurements=(measurement,), notes={"explained": arrays["explained"].tolist()})
