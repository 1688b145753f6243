"""t-SNE (maaten2008) by openTSNE (policar2024), started from principal components."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from ..errors import ConfigError
from ..numerics.nearest import Nearest, Table, nearest_rows
from ..numerics.seeds import stable_seed
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from .method import Embedded, Method
from .rows import Rows
from .sampling import condensed, drawn, on_all, sampled_note

DIVERGENCE = ArraySpec(
    "divergence",
    ("map",),
    "float32",
    "nat",
    "Kullback-Leibler divergence between the neighborhoods of the features and of the map; NaN where no map was made.",
)
# Neighbors that an image's neighborhood is told by, in perplexities.
_REACH = 3
# The perplexity where nobody names one, and the least that is advised (maaten2008).
_USUAL, _LEAST = 30.0, 5.0
# Images whose neighbors are looked up at once.
_QUERIES = 2048
# From here on repulsion is interpolated on a grid (linderman2019) instead of summed over a tree.
_INTERPOLATED = 5_000
# Steps in which neighbors attract each other more strongly.
_EARLY = 250


@dataclass(frozen=True)
class TSNE(Method):
    """A plane in which images that are near in feature space stay near; far ones may lie anywhere.

    Distances between groups, and the size of groups, mean nothing in it.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are embedded.
    perplexity
        About how many neighbors each image keeps near. None stands for 30, or for a third of the other images where
        there are too few for that; where that is below 5, no map is made, and the notes say so.
    directions
        Principal components that the features are first reduced to.
    sample
        Images at most; more are drawn at random.
    iterations
        Steps after the first 250, in which neighbors attract each other more strongly.
    """

    layer: str = "penultimate"
    perplexity: float | None = None
    directions: int = 50
    sample: int = 20_000
    iterations: int = 500

    components: ClassVar[int] = 2  # pyright: ignore[reportIncompatibleVariableOverride]
    documents: ClassVar[tuple[ArraySpec, ...]] = (DIVERGENCE,)

    def __post_init__(self) -> None:
        for name, value, least in (("perplexity", self.perplexity, 1), ("directions", self.directions, 2),
                                   ("sample", self.sample, 4), ("iterations", self.iterations, 1)):  # fmt: skip
            if value is not None and not value >= least:
                raise ConfigError(f"embeddings.methods.tsne.{name}: expected {least} or more, got {value}")

    def writes(self, feature: int) -> tuple[SizedArray, ...]:
        """The divergence."""
        del feature
        return (DIVERGENCE.sized((1,)),)

    def embed(self, rows: Rows, seed: int, path: str) -> Embedded:
        """Place a sample of the images.

        Raises
        ------
        ConfigError
            When there are fewer images than the perplexity that was asked for needs, or all features are the same.
        """
        chosen = drawn(rows, self.sample, seed, path)
        perplexity = self._suited(len(chosen), path)
        if perplexity is None:
            nowhere = np.full((len(rows), self.components), np.nan)
            return Embedded(nowhere, {"divergence": np.full(1, np.nan, np.float32)})
        reduced = condensed(chosen, self.directions, seed, path)
        place, divergence = tsne(reduced, perplexity, self.iterations, seed)
        return Embedded(on_all(rows, chosen, place), {"divergence": np.array([divergence], np.float32)})

    def describe(self, arrays: Mapping[str, Any], n: int, path: str) -> Summary:
        """What was asked, what was sampled, and how well the map holds the neighborhoods."""
        held = min(n, self.sample)
        perplexity = self._suited(held, path)
        if perplexity is None:
            reason = (
                f"no map of {held} images: their perplexity would be below {_LEAST:g}, the least that is advised; "
                f"give it {_fewest(_LEAST)} images or more, or name a perplexity"
            )
            return Summary(notes={"left_out": reason, "not_applicable": {f"{path}_divergence": reason}})
        told = (
            "Kullback-Leibler divergence, in nats, between the neighborhoods in feature space and in the map, "
            f"perplexity {perplexity:.4g}; it compares runs on the same images alone."
        )
        value = float(arrays["divergence"][0])
        measured = Measurement(f"{path}_divergence", value, "nat", "lower", held, f"{path}/divergence", told)
        return Summary(measurements=(measured,), notes=sampled_note(n, self.sample) | {"perplexity": perplexity})

    def _suited(self, n: int, path: str) -> float | None:
        """The perplexity for so many images; None where none is advised."""
        if self.perplexity is None:
            most = min(_USUAL, (n - 1) / _REACH)
            return most if most >= _LEAST else None
        if n <= _REACH * self.perplexity:
            most = (n - 1) / _REACH
            advice = f"set perplexity to {most:.4g} or less" if most >= 1 else "give it 4 images or more"
            raise ConfigError(
                f"{path}: a perplexity of {self.perplexity:g} needs more than {_REACH * self.perplexity:g} usable "
                f"images, got {n}; {advice}"
            )
        return self.perplexity


def _fewest(perplexity: float) -> int:
    return int(_REACH * perplexity) + 1


def tsne(
    features: Float[np.ndarray, "image feature"], perplexity: float, iterations: int, seed: int
) -> tuple[Float[np.ndarray, "image 2"], float]:
    """Places in the plane, and their divergence.

    Neighbors are exact and found without the library's own search, whose result hangs on its number of threads. The
    start is the first two columns of the features. Every number of threads gives the same bytes.

    Parameters
    ----------
    features
        Principal coordinates, strongest first, at least two.
    perplexity
        At most a third of the other images.
    iterations
        Steps without exaggeration.
    seed
        Root of every random number.
    """
    import openTSNE
    from openTSNE import affinity, initialization, nearest_neighbors

    random = stable_seed(seed, "embeddings", "t-SNE") % 2**32
    threads = torch.get_num_threads()
    index, distance = _neighbors(features, int(_REACH * perplexity))
    affinities = affinity.PerplexityBasedNN(
        perplexity=perplexity,  # pyright: ignore[reportArgumentType]  # any number will do
        knn_index=nearest_neighbors.PrecomputedNeighbors(index, distance),
        n_jobs=threads,
        random_state=random,
    )
    start = initialization.rescale(features[:, :2])
    method = "fft" if len(features) >= _INTERPOLATED else "bh"
    found = openTSNE.TSNE(
        early_exaggeration_iter=_EARLY,
        n_iter=iterations,
        negative_gradient_method=method,
        n_jobs=threads,
        random_state=random,
    ).fit(affinities=affinities, initialization=start)
    return np.asarray(found, np.float64), float(found.kl_divergence)


def _neighbors(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values = features.astype(np.float32)
    table = Table(values, np.ones(len(values), bool), "euclidean")

    def near(start: int) -> Nearest:
        stop = min(start + _QUERIES, len(values))
        return nearest_rows(table, np.arange(start, stop), values[start:stop], k)

    # Products of so few columns are too small to be shared out: one thread each, several at once.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        parts = list(threads.map(near, range(0, len(values), _QUERIES)))
    return np.concatenate([part.index for part in parts]), np.concatenate([part.distance for part in parts])
