"""Principal component analysis (jolliffe2002)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from ..errors import ConfigError
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from .method import Embedded, Method

COMPONENT = ArraySpec(
    "component", ("component", "feature"), "float32", "1", "Directions of largest variance, of length 1."
)
EXPLAINED = ArraySpec("explained", ("component",), "float32", "1", "Share of the total variance along each direction.")
CENTRE = ArraySpec("centre", ("feature",), "float32", "activation", "Mean of the features, which was taken off.")

# Up to this many images or features the exact decomposition is cheap.
_WHOLE = 4096
# Rows held in float64 at once.
_BLOCK = 4096
# Float32 features cannot hold directions this much weaker than the strongest; they would be rounding.
_RANK_TOLERANCE = 1e-5
# Differences this small against the features themselves come from taking the mean off, not from the features.
_RESOLUTION = 1e-9


@dataclass(frozen=True)
class PCA(Method):
    """Coordinates along the directions in which features vary most.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are embedded.
    components
        How many directions; at most the rank of the features.
    """

    layer: str = "penultimate"
    components: int = 2

    documents: ClassVar[tuple[ArraySpec, ...]] = (COMPONENT, EXPLAINED, CENTRE)

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ConfigError(f"embeddings.methods.pca.components: expected 1 or more, got {self.components}")

    def writes(self, feature: int) -> tuple[SizedArray, ...]:
        """Directions, shares and centre."""
        k = self.components
        return COMPONENT.sized((k, feature)), EXPLAINED.sized((k,)), CENTRE.sized((feature,))

    def embed(self, features: Float[np.ndarray, "image feature"], seed: int, path: str) -> Embedded:
        """Project the features onto their principal components.

        Raises
        ------
        ConfigError
            When the features have fewer independent directions than `components`.
        """
        coordinate, component, explained, centre = principal_components(features, self.components, seed, path)
        return Embedded(coordinate, {"component": component, "explained": explained, "centre": centre})

    def describe(self, arrays: Mapping[str, np.ndarray], n: int, path: str) -> Summary:
        """The share of the variance that the picture shows."""
        told = f"Share of the variance of the features along the first {self.components} principal components."
        share = float(arrays["explained"].sum(dtype=np.float64))
        measurement = Measurement(f"{path}_explained", share, "1", "neither", n, f"{path}/explained", told)
        return Summary(measurements=(measurement,), notes={"explained": arrays["explained"].tolist()})


def principal_components(
    features: Float[np.ndarray, "image feature"], k: int, seed: int, path: str = "pca"
) -> tuple[
    Float[np.ndarray, "image k"], Float[np.ndarray, "k feature"], Float[np.ndarray, " k"], Float[np.ndarray, " feature"]
]:
    """Coordinates, directions, shares of variance and centre.

    Parameters
    ----------
    features
        One row per image, finite; left as it is.
    k
        How many directions.
    seed
        Of the random projections that stand in where there are more than 4,096 images and features.
    path
        Who asks, for messages.

    Returns
    -------
    tuple of ndarray
        All float32. The sign of each direction is fixed by making its largest loading, the first of equal ones,
        positive.

    Raises
    ------
    ConfigError
        When the features have fewer than `k` independent directions.
    """
    n, width = features.shape
    _enough(k, min(n - 1, width), features.shape, path)
    centre = features.mean(axis=0, dtype=np.float64)
    largest = max(float(np.abs(features[a : a + _BLOCK] - centre).max()) for a in range(0, n, _BLOCK))
    if largest <= _RESOLUTION * np.abs(features).max():
        _enough(k, 0, features.shape, path)
    if min(n, width) > _WHOLE:
        strength, component, total = _randomised(features, centre, k, seed)
    else:
        strength, component, total = (_by_feature if width <= n else _by_image)(features, centre, k)
    _enough(k, int((strength > _RANK_TOLERANCE * strength[0]).sum()), features.shape, path)
    component = component / np.sqrt((component**2).sum(axis=1, keepdims=True))
    component *= np.sign(component[np.arange(k), np.abs(component).argmax(axis=1)])[:, None]
    coordinate = [(features[a : a + _BLOCK] - centre) @ component.T for a in range(0, n, _BLOCK)]
    found = (np.concatenate(coordinate), component, strength**2 / total, centre)
    return tuple(array.astype(np.float32) for array in found)  # type: ignore[return-value]


def _by_feature(features: np.ndarray, centre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Singular values, directions and total sum of squares, from products of features."""
    width = features.shape[1]
    product = np.zeros((width, width))
    for a in range(0, len(features), _BLOCK):
        rows = features[a : a + _BLOCK] - centre
        product += rows.T @ rows
    value, vector = eigh(product, subset_by_index=(width - k, width - 1))
    return np.sqrt(value[::-1].clip(0)), vector[:, ::-1].T, float(np.trace(product))


def _by_image(features: np.ndarray, centre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The same from products of images, of which there are fewer."""
    n = len(features)
    rows = features - centre
    product = rows @ rows.T
    value, vector = eigh(product, subset_by_index=(n - k, n - 1))
    return np.sqrt(value[::-1].clip(0)), vector[:, ::-1].T @ rows, float(np.trace(product))


def _randomised(features: np.ndarray, centre: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The same by random projections (halko2011), where neither product would fit; close, not exact."""
    from sklearn.utils.extmath import randomized_svd

    rows = (features - centre).astype(np.float32)
    # More power iterations than the library's default, which is a few percent off where the variances hardly differ.
    settings: dict[str, Any] = {"n_oversamples": 20, "n_iter": 15, "random_state": seed % 2**32}
    _, strength, component = randomized_svd(rows, k, **settings)
    return strength.astype(np.float64), component.astype(np.float64), float(np.square(rows, dtype=np.float64).sum())


def _enough(k: int, rank: int, shape: tuple[int, int], path: str) -> None:
    if k > rank:
        raise ConfigError(
            f"{path}: {k} components were asked of features of rank {rank} ({shape[0]} images, {shape[1]} features); "
            f"set components to {rank} or less"
            if rank
            else f"{path}: the features of all {shape[0]} usable images are the same, so there is nothing to embed"
        )
