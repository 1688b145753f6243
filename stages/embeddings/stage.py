"""Places every image by its features, so that people can look at all of them at once: one leaf per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stage, Stored, Subject, Task, settings
from ..errors import ConfigError, StageError, StoreError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, Measurement, SizedArray, Summary
from .centroids import CENTROID, CLASS_DISTANCE, COUNT, OVERLAP, SPREAD, class_centroids
from .method import Method
from .rows import Rows

COORDINATE = ArraySpec(
    "coordinate",
    ("image", "component"),
    "float32",
    "1",
    "Place of each image; NaN for images that could not be used or were not sampled.",
)
# What `compute` tells `finish` beside the arrays.
_USABLE, _INDEX = "usable", "index"


@dataclass(frozen=True)
class Embeddings(Stage):
    """Embeddings by every configured method.

    Parameters
    ----------
    methods
        `Method` by the name that it has in the store.
    """

    methods: Mapping[str, Any]

    name: ClassVar[str] = "embeddings"

    def __post_init__(self) -> None:
        wrong = [key for key, method in self.methods.items() if not isinstance(method, Method)]
        if wrong or not self.methods:
            got = f"{wrong[0]}={self.methods[wrong[0]]!r}" if wrong else "none"
            raise ConfigError(f"embeddings.methods: expected embedding methods with a _target_, got {got}")

    def leaves(self) -> tuple[Leaf, ...]:
        """One per method."""
        return tuple(EmbeddingLeaf(key, method) for key, method in self.methods.items())


@dataclass(frozen=True)
class EmbeddingLeaf(Leaf):
    """The embedding of one method."""

    key: str
    method: Method

    @property
    def name(self) -> str:
        """Stage and method."""
        return f"embeddings/{self.key}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings of the method."""
        return settings(self.method)

    @property
    def documents(self) -> tuple[ArraySpec, ...]:  # type: ignore[override]
        """The coordinates, the method's other arrays, and the classes in feature space."""
        return (COORDINATE, *self.method.documents, CENTROID, COUNT, SPREAD, CLASS_DISTANCE, OVERLAP)

    @property
    def reads(self) -> tuple[str, ...]:
        """Features, and which images could be used."""
        return ("features", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The coordinates, the method's other arrays, and the classes in feature space."""
        n, wide = subject.n_class, self._layer(subject).shape[0]
        return (
            COORDINATE.sized((subject.n_image, self.method.components)),
            *self.method.writes(wide),
            CENTROID.sized((n, wide)),
            COUNT.sized((n,)),
            SPREAD.sized((n,)),
            CLASS_DISTANCE.sized((n, n)),
            OVERLAP.sized((n, n)),
        )

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Embed all usable images at once."""
        del task
        rows = self._rows(subject, stored)
        embedded = self.method.embed(rows, subject.seed, self.name)
        classes = class_centroids(rows, subject.label, subject.n_class)
        coordinate = np.full((subject.n_image, self.method.components), np.nan, np.float32)
        coordinate[rows.usable] = embedded.coordinate
        arrays = {path: np.asarray(values) for path, values in embedded.arrays.items()} | classes.arrays()
        told = {_USABLE: rows.usable, _INDEX: np.array(classes.worst_overlap())}
        return Result({"coordinate": coordinate}, arrays | told)

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Let the method say what it found, and name the images that could not be embedded."""
        arrays = dict(partials[0])
        usable, index = arrays.pop(_USABLE), float(arrays.pop(_INDEX))
        n = int(usable.sum())
        said = self.method.describe(arrays, n, self.name)
        lost = np.flatnonzero((np.asarray(stored["predictions/status"][:]) == 0) & ~usable)
        notes = {**said.notes, "layer": self._layer(subject).name, "n": n}
        apart = self._apart(arrays["count"], index)
        return Summary(arrays, (*said.measurements, *apart), (*said.findings, *_lost(lost)), notes)

    def _apart(self, count: np.ndarray, index: float) -> tuple[Measurement, ...]:
        if (count > 0).sum() < 2:
            return ()
        told = (
            "Davies-Bouldin index in feature space: mean over classes of the largest (spread + other spread) / "
            "distance of the centroids, Euclidean; spread is the mean distance to the centroid. Low: classes are "
            "apart; not measured where two classes have one centroid."
        )
        n, index = int(count.sum()), index if np.isfinite(index) else float("nan")
        return (Measurement(f"{self.name}_class_overlap", index, "1", "lower", n, f"{self.name}/overlap", told),)

    def _layer(self, subject: Subject) -> LayerSpec:
        chosen = select_layers((self.method.layer,), subject.layers)
        if len(chosen) != 1:
            names = ", ".join(layer.name for layer in chosen[:5])
            raise ConfigError(
                f"embeddings.methods.{self.key}.layer: expected one layer, but {self.method.layer!r} selects "
                f"{len(chosen)}: {names}"
            )
        return chosen[0]

    def _rows(self, subject: Subject, stored: Stored) -> Rows:
        """Features of the images that can be embedded."""
        layer = self._layer(subject)
        try:
            features = stored[f"features/{layer.name}"]
        except StoreError as error:
            raise StageError(
                f"{self.name}: features of {layer.name} are not stored; add {self.method.layer!r} to features.layers"
            ) from error
        valid = np.asarray(stored["predictions/status"][:]) == 0
        rows = Rows.finite(features, valid, layer.shape[0])
        if not len(rows):
            raise StageError(f"{self.name}: not one image has finite features of {layer.name}")
        return rows


def _lost(lost: np.ndarray) -> tuple[Finding, ...]:
    if not len(lost):
        return ()
    return (
        Finding(
            "embeddings/not-finite",
            "warning",
            f"{len(lost)} images have features that are not finite",
            "They have no place in the embedding and took no part in making it; look at the model's weights.",
            tuple(lost[:12].tolist()),
        ),
    )
