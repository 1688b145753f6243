"""Places every image by its features, so that people can look at all of them at once: one leaf per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stage, Stored, Subject, Task, settings
from ..errors import ConfigError, StageError, StoreError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, SizedArray, Summary
from .method import Method

COORDINATE = ArraySpec(
    "coordinate", ("image", "component"), "float32", "1", "Place of each image; NaN for images that could not be used."
)


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
        """The coordinates and the method's other arrays."""
        return (COORDINATE, *self.method.documents)

    @property
    def reads(self) -> tuple[str, ...]:
        """Features, and which images could be used."""
        return ("features", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The coordinates and the method's other arrays."""
        coordinate = COORDINATE.sized((subject.n_image, self.method.components))
        return (coordinate, *self.method.writes(self._layer(subject).shape[0]))

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Embed all usable images at once."""
        del task
        usable, features = self._features(subject, stored)
        embedded = self.method.embed(features[usable], subject.seed, self.name)
        coordinate = np.full((subject.n_image, self.method.components), np.nan, np.float32)
        coordinate[usable] = embedded.coordinate
        return Result({"coordinate": coordinate}, {path: np.asarray(a) for path, a in embedded.arrays.items()})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Let the method say what it found, and name the images that could not be embedded."""
        arrays = partials[0]
        usable, _ = self._features(subject, stored)
        said = self.method.describe(arrays, int(usable.sum()), self.name)
        lost = np.flatnonzero((np.asarray(stored["predictions/status"][:]) == 0) & ~usable)
        notes = {**said.notes, "layer": self._layer(subject).name, "n": int(usable.sum())}
        return Summary(dict(arrays), said.measurements, (*said.findings, *_lost(lost)), notes)

    def _layer(self, subject: Subject) -> LayerSpec:
        chosen = select_layers((self.method.layer,), subject.layers)
        if len(chosen) != 1:
            names = ", ".join(layer.name for layer in chosen[:5])
            raise ConfigError(
                f"embeddings.methods.{self.key}.layer: expected one layer, but {self.method.layer!r} selects "
                f"{len(chosen)}: {names}"
            )
        return chosen[0]

    def _features(self, subject: Subject, stored: Stored) -> tuple[np.ndarray, np.ndarray]:
        """Which images can be embedded, and the features of all."""
        layer = self._layer(subject).name
        try:
            features = np.asarray(stored[f"features/{layer}"][:])
        except StoreError as error:
            raise StageError(
                f"{self.name}: features of {layer} are not stored; add {self.method.layer!r} to features.layers"
            ) from error
        valid = np.asarray(stored["predictions/status"][:]) == 0
        usable = valid & np.isfinite(features).all(axis=1)
        if not usable.any():
            raise StageError(f"{self.name}: not one image has finite features of {layer}")
        return usable, features


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
