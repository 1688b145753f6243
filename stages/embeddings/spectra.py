"""Directions of largest variance of features that are read block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh, qr

from ..errors import ConfigError
from ..numerics.seeds import numpy_generator
from .rows import Rows

# Up to this many images or features the exact decomposition is cheap.
_WHOLE = 4096
# Float32 features cannot hold directions this much weaker than the strongest; they would be rounding.
_RANK_TOLERANCE = 1e-5
# Differences this small against the features themselves come from taking the mean off, not from the features.
_RESOLUTION = 1e-9
# Random directions beyond those asked for, and rounds in which they turn towards the strongest.
_SPARE, _ROUNDS = 20, 15


@dataclass(frozen=True)
class Components:
    """Principal components, strongest first, in float64.

    Parameters
    ----------
    component
        Directions of length 1; the largest loading of each, the first of equal ones, is positive.
    explained
        Share of the total variance along each.
    centre
        Mean of the features.
    rank
        How many of them are more than rounding.
    """

    component: Float[np.ndarray, "component feature"]
    explained: Float[np.ndarray, " component"]
    centre: Float[np.ndarray, " feature"]
    rank: int

    def first(self, k: int) -> Components:
        """Only the first `k`."""
        return Components(self.component[:k], self.explained[:k], self.centre, min(k, self.rank))

    def project(self, rows: Rows) -> Float[np.ndarray, "image component"]:
        """Coordinates of the usable images."""
        return np.concatenate([(features - self.centre) @ self.component.T for _, features in rows.blocks()])


def principal_components(rows: Rows, most: int, seed: int, path: str = "pca") -> Components:
    """Find up to `most` directions.

    Exact, from products of features (up to 4,096 of them) or of images (up to 4,096); else by subspace iteration from
    random directions (halko2011, algorithm 4.4 with the product of both factors in each round), close but not exact.
    Each way reads the features block by block and holds no table of them.

    Parameters
    ----------
    rows
        Features.
    most
        Directions at most; fewer where there are fewer features, or images less one.
    seed
        Of the random directions.
    path
        Who asks, for messages.

    Raises
    ------
    ConfigError
        When there is one image, or all features are the same.
    """
    n, width = rows.shape
    k = min(most, n - 1, width)
    enough(1, k, rows.shape, path)
    centre = _centre(rows, path)
    if min(n, width) > _WHOLE:
        strength, component, total = _randomised(rows, centre, k, seed)
    else:
        strength, component, total = (_by_feature if width <= n else _by_image)(rows, centre, k)
    rank = int((strength > _RANK_TOLERANCE * strength[0]).sum())
    length = np.sqrt((component**2).sum(axis=1, keepdims=True))
    component = component / np.where(length > 0, length, 1)
    largest = component[np.arange(k), np.abs(component).argmax(axis=1)]
    component = component * np.where(largest < 0, -1.0, 1.0)[:, None]
    return Components(component, strength**2 / total, centre, rank)


def enough(k: int, rank: int, shape: tuple[int, int], path: str) -> None:
    """Raise a `ConfigError` where features of that rank and shape do not have `k` directions."""
    if k <= rank:
        return
    if shape[0] == 1:
        raise ConfigError(f"{path}: one usable image has no place among others; give it two images or more")
    raise ConfigError(
        f"{path}: {k} components were asked of features of rank {rank} ({shape[0]} images, {shape[1]} features); "
        f"set components to {rank} or less"
        if rank
        else f"{path}: the features of all {shape[0]} usable images are the same, so there is nothing to embed"
    )


def _centre(rows: Rows, path: str) -> np.ndarray:
    total = np.zeros(rows.width)
    low, high = np.full(rows.width, np.inf), np.full(rows.width, -np.inf)
    for _, features in rows.blocks():
        total += features.sum(axis=0)
        low, high = np.minimum(low, features.min(axis=0)), np.maximum(high, features.max(axis=0))
    if (high - low).max() <= _RESOLUTION * max(np.abs(low).max(), np.abs(high).max()):
        enough(1, 0, rows.shape, path)
    return total / len(rows)


def _by_feature(rows: Rows, centre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Singular values, directions and total sum of squares, from products of features."""
    width = rows.width
    product = np.zeros((width, width))
    for _, features in rows.blocks():
        features -= centre
        product += features.T @ features
    value, vector = eigh(product, subset_by_index=(width - k, width - 1))
    return np.sqrt(value[::-1].clip(0)), vector[:, ::-1].T, float(np.trace(product))


def _by_image(rows: Rows, centre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The same from products of images, of which there are fewer."""
    n = len(rows)
    product, a = np.zeros((n, n)), 0
    for _, upper in rows.blocks():
        upper -= centre
        b = 0
        for _, lower in rows.blocks():
            if b > a:
                break
            product[a : a + len(upper), b : b + len(lower)] = upper @ (lower - centre).T
            b += len(lower)
        a += len(upper)
    value, vector = eigh(product, subset_by_index=(n - k, n - 1), lower=True)
    component, a = np.zeros((k, rows.width)), 0
    for _, features in rows.blocks():
        component += vector[a : a + len(features), ::-1].T @ (features - centre)
        a += len(features)
    return np.sqrt(value[::-1].clip(0)), component, float(np.trace(product))


def _randomised(rows: Rows, centre: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The same from random directions that turn towards the strongest, where neither product would fit."""
    n, width = rows.shape
    wide = min(k + _SPARE, n, width)
    # Where variances hardly differ, few rounds leave the shares a few percent off.
    start = numpy_generator(seed, "embeddings", "principal components").standard_normal((width, wide))
    basis = _orthonormal(start)
    for _ in range(_ROUNDS):
        basis = _orthonormal(_through(rows, centre, basis)[0])
    turned, total = _through(rows, centre, basis)
    value, vector = np.linalg.eigh(basis.T @ turned)
    chosen = vector[:, ::-1][:, :k]
    return np.sqrt(value[::-1][:k].clip(0)), (basis @ chosen).T, total


def _through(rows: Rows, centre: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float]:
    """Directions times the product of features, which is never formed, and the trace of that product."""
    turned, total = np.zeros_like(basis), 0.0
    for _, features in rows.blocks():
        features -= centre
        turned += features.T @ (features @ basis)
        total += float((features * features).sum())
    return turned, total


def _orthonormal(directions: np.ndarray) -> np.ndarray:
    return np.asarray(qr(directions, mode="economic")[0])
