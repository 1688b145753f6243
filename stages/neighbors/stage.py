"""Exact nearest neighbors of every image in feature space, and what their labels say about head and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError, StageError, StoreError
from ..numerics.distances import Metric, nearest_rows, usable_rows
from ..selectors import select_layers
from ..specs import ArraySpec, SizedArray, Summary
from .duplicates import duplicate_groups
from .judgements import Seen, findings, measurements, notes
from .vote import agreement, triangle, vote

INDEX = ArraySpec(
    "index", ("image", "neighbor"), "int64", "image", "Positions of the nearest other images, nearest first."
)
DISTANCE = ArraySpec(
    "distance", ("image", "neighbor"), "float32", "distance", "Distances to them, in the metric of the notes."
)
PREDICTED = ArraySpec(
    "predicted", ("image",), "int32", "class", "Most frequent label among the neighbors; ties: the nearest bearer's."
)
# Bounds the working memory of a task; results do not depend on it.
_QUERIES = 1024


@dataclass(frozen=True)
class Neighbors(SoleLeaf):
    """The kNN check: each image against the labels of its nearest other images.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are compared.
    metric
        ``"cosine"`` (1 - cos) or ``"euclidean"``.
    k
        Neighbors per image.
    examples
        Images named per group in notes and findings.
    """

    layer: str = "penultimate"
    metric: Metric = "cosine"
    k: int = 10
    examples: int = 12

    name: ClassVar[str] = "neighbors"
    documents: ClassVar[tuple[ArraySpec, ...]] = (INDEX, DISTANCE, PREDICTED)

    def __post_init__(self) -> None:
        for key in ("k", "examples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"neighbors.{key}: expected 1 or more, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Features to compare, and what the head answered."""
        return ("features", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per image."""
        self._enough(subject.n_image)
        shape = (subject.n_image, self.k)
        return (INDEX.sized(shape), DISTANCE.sized(shape), PREDICTED.sized((subject.n_image,)))

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One block of queries per shard."""
        del stored
        return [
            Task(self.name, start=shard.start, argument={"first": shard.start, "last": shard.stop})
            for shard in subject.shards()
        ]

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Neighbors of one block of images among all."""
        table, _, usable = self._table(subject, stored)
        self._enough(int(usable.sum()))
        first, last = task.argument["first"], task.argument["last"]
        index = np.full((last - first, self.k), -1, np.int64)
        distance = np.full((last - first, self.k), np.nan, np.float32)
        query = first + np.flatnonzero(usable[first:last])
        for a in range(0, len(query), _QUERIES):
            some = query[a : a + _QUERIES]
            index[some - first], distance[some - first] = nearest_rows(table, usable, some, self.k, self.metric)
        return Result({"index": index, "distance": distance, "predicted": vote(_labels(subject, index))})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Hold neighbors, head and label against each other."""
        del partials
        _, valid, usable = self._table(subject, stored)
        index = np.asarray(stored["neighbors/index"][:])
        voted = np.asarray(stored["neighbors/predicted"][:])
        head = np.asarray(stored["predictions/predicted"][:])
        seen = Seen(
            subject=subject,
            definition=f"{self.k} nearest other images by {self.metric} distance of {self._layer(subject)}",
            valid=valid,
            usable=usable,
            head=head,
            voted=voted,
            confidence=np.asarray(stored["predictions/confidence"][:]),
            agreement=agreement(_labels(subject, index), subject.label),
            triangle=triangle(subject.label, head, voted),
            duplicates=duplicate_groups(subject.content),
        )
        told: dict[str, Any] = notes(seen, self.examples)
        told |= {"layer": self._layer(subject), "metric": self.metric, "k": self.k}
        return Summary({}, measurements(seen), findings(seen, self.examples), told)

    def _layer(self, subject: Subject) -> str:
        chosen = select_layers((self.layer,), subject.layers)
        if len(chosen) != 1:
            names = ", ".join(layer.name for layer in chosen[:5])
            raise ConfigError(f"neighbors.layer: expected one layer, but {self.layer!r} selects {len(chosen)}: {names}")
        return chosen[0].name

    def _table(self, subject: Subject, stored: Stored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, which images could be read, and which of these have a distance to others."""
        layer = self._layer(subject)
        try:
            table = np.asarray(stored[f"features/{layer}"][:])
        except StoreError as error:
            raise StageError(
                f"neighbors: features of {layer} are not stored; add {self.layer!r} to features.layers"
            ) from error
        valid = np.asarray(stored["predictions/status"][:]) == 0
        return table, valid, valid & usable_rows(table, self.metric)

    def _enough(self, n: int) -> None:
        if self.k >= n:
            raise ConfigError(
                f"neighbors.k: {self.k} neighbors need more than {self.k} usable images, got {n}; set a smaller k"
            )


def _labels(subject: Subject, index: np.ndarray) -> np.ndarray:
    return np.where(index >= 0, subject.label[index], -1)
