"""Exact nearest neighbors of every image in feature space, and what their labels say about head and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError, StageError, StoreError
from ..numerics.distances import Metric, finite_rows, length_of, usable_rows
from ..numerics.nearest import Table, nearest_rows
from ..numerics.screening import Device
from ..selectors import select_layers
from ..specs import ArraySpec, SizedArray, Summary
from .duplicates import duplicate_groups, first_of, near_duplicates
from .findings import findings
from .hubs import occurrences
from .judgements import Seen, measurements, notes
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
AGREEMENT = ArraySpec(
    "agreement", ("image",), "float32", "1", "Share of the labelled neighbors that bear the image's own label."
)
SEARCH = ArraySpec(
    "search",
    ("image",),
    "int8",
    "1",
    "How the neighbors were made sure: 0 float32 or bfloat16 products, 1 float64 products, 2 every pair measured; 3 "
    "features not finite, 4 no direction.",
)
SIDE = ArraySpec(
    "side", ("image",), "int8", "1", "Triangle: 0 both right, 1 head only, 2 neighbors only, 3 label suspect, 4 hard."
)
OCCURRENCE = ArraySpec(
    "occurrence", ("image",), "int32", "images", "Images that have this one among their neighbors; -1: not compared."
)
COPY = ArraySpec(
    "copy", ("image",), "int64", "image", "First image of equal content, itself included; -1 where no other is equal."
)
NEAR = ArraySpec("near", ("image",), "int64", "image", "The nearest near-duplicate; -1 for none.")
ALSO_INDEX = ArraySpec("{layer}/index", INDEX.dims, "int64", "image", "The same among features of a further layer.")
ALSO_DISTANCE = ArraySpec("{layer}/distance", DISTANCE.dims, "float32", "distance", "Distances to them.")
ALSO_PREDICTED = ArraySpec("{layer}/predicted", ("image",), "int32", "class", "Most frequent label among them.")

_NOT_FINITE, _NO_DIRECTION = 3, 4


@dataclass(frozen=True)
class Neighbors(SoleLeaf):
    """The kNN check: each image against the labels of its nearest other images.

    Parameters
    ----------
    layer
        Selector of the one layer whose stored features are compared.
    also
        Selectors of further layers, of which neighbors and their accuracy are told too.
    metric
        ``"cosine"`` (1 - cos) or ``"euclidean"``.
    k
        Neighbors per image.
    near
        Distance below which two images are near-duplicates, as a share of the distance of either to its k-th neighbor;
        0 to 1, 0 for copies of features alone.
    block
        Images of one task at most (but whole shards), and rows of the features that a task holds at once unless all of
        them take no more than 256 MiB.
    device
        Where matrix products are computed; results do not depend on it.
    examples
        Images named per group in notes and findings.
    """

    layer: str = "penultimate"
    also: tuple[str, ...] = ()
    metric: Metric = "cosine"
    k: int = 10
    near: float = 0.4
    block: int = 8192
    device: Device = "cpu"
    examples: int = 12

    name: ClassVar[str] = "neighbors"
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        INDEX, DISTANCE, PREDICTED, AGREEMENT, SEARCH, SIDE, OCCURRENCE, COPY, NEAR,
        ALSO_INDEX, ALSO_DISTANCE, ALSO_PREDICTED,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for key in ("k", "block", "examples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"neighbors.{key}: expected 1 or more, got {getattr(self, key)}")
        if not 0 <= self.near <= 1:
            raise ConfigError(f"neighbors.near: expected 0 to 1, got {self.near}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Features to compare, and what the head answered."""
        return ("features", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per image."""
        n, wide = subject.n_image, (subject.n_image, self.k)
        self._enough(n)
        single = (PREDICTED, AGREEMENT, SEARCH, SIDE, OCCURRENCE, COPY, NEAR)
        further = [
            array
            for layer in self._further(subject)
            for array in (
                ALSO_INDEX.sized(wide, layer=layer),
                ALSO_DISTANCE.sized(wide, layer=layer),
                ALSO_PREDICTED.sized((n,), layer=layer),
            )
        ]
        return (INDEX.sized(wide), DISTANCE.sized(wide), *(spec.sized((n,)) for spec in single), *further)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """A block of queries for each layer."""
        del stored
        return [
            Task(self.name, start=some.start, argument={"layer": layer, "last": some.stop})
            for layer in (self._layer(subject), *self._further(subject))
            for some in pieces(subject.n_image, self.block, subject.shard)
        ]

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Neighbors of one block of images among all."""
        layer, first, last = task.argument["layer"], task.start, task.argument["last"]
        table = self._table(layer, stored)
        rows = np.asarray(table.rows[first:last])
        finite, usable = finite_rows(rows), usable_rows(rows, self.metric)
        query = np.flatnonzero(table.allowed[first:last] & usable)
        index = np.full((len(rows), self.k), -1, np.int64)
        distance = np.full((len(rows), self.k), np.nan, np.float32)
        search = np.where(usable, -1, np.where(finite, _NO_DIRECTION, _NOT_FINITE)).astype(np.int8)
        search[~table.allowed[first:last]] = -1
        if len(query):
            found = nearest_rows(table, first + query, rows[query], self.k, self.device)
            if (found.index < 0).any():
                self._enough(sum(len(position) for position, _ in table.stored()))
            index[query], distance[query], search[query] = found.index, found.distance, found.decided
        label = _labels(subject, index)
        found_rows = {"index": index, "distance": distance, "predicted": vote(label)}
        if layer != self._layer(subject):
            return Result({f"{layer}/{path}": values for path, values in found_rows.items()})
        agreed = agreement(label, subject.label[first:last]).astype(np.float32)
        return Result(found_rows | {"agreement": agreed, "search": search})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Hold neighbors, head and label against each other."""
        del partials
        seen = self._seen(subject, stored)
        self._enough(int(seen.usable.sum()))
        told: dict[str, Any] = notes(seen, self.examples)
        told |= {"layer": self._layer(subject), "metric": self.metric, "k": self.k, "near": self.near}
        told["further"] = [self._accuracy(layer, subject, stored) for layer in self._further(subject)]
        arrays = {
            "side": seen.triangle.code,
            "occurrence": np.where(seen.usable, seen.occurrence, -1).astype(np.int32),
            "copy": first_of(seen.duplicates, subject.n_image),
            "near": seen.near,
        }
        return Summary(arrays, measurements(seen), findings(seen, self.examples), told)

    def _seen(self, subject: Subject, stored: Stored) -> Seen:
        index, distance, voted, agreed, search = (
            np.asarray(stored[f"neighbors/{path}"][:])
            for path in ("index", "distance", "predicted", "agreement", "search")
        )
        head = np.asarray(stored["predictions/predicted"][:])
        duplicates = duplicate_groups(subject.content)
        length = length_of(distance.astype(np.float64), self.metric)
        return Seen(
            subject=subject,
            definition=f"{self.k} nearest other images by {self.metric} distance of {self._layer(subject)}",
            share=self.near,
            search=search,
            distance=distance,
            head=head,
            voted=voted,
            confidence=np.asarray(stored["predictions/confidence"][:]),
            agreement=agreed,
            triangle=triangle(subject.label, head, voted),
            occurrence=occurrences(index),
            duplicates=duplicates,
            near=near_duplicates(index, length, self.near, first_of(duplicates, subject.n_image)),
        )

    def _accuracy(self, layer: str, subject: Subject, stored: Stored) -> dict[str, Any]:
        voted = np.asarray(stored[f"neighbors/{layer}/predicted"][:])
        judged = (subject.label >= 0) & (voted >= 0)
        n = int(judged.sum())
        right = int((voted[judged] == subject.label[judged]).sum())
        return {"layer": layer, "n": n, "accuracy": right / n if n else None}

    def _layer(self, subject: Subject) -> str:
        chosen = select_layers((self.layer,), subject.layers)
        if len(chosen) != 1:
            names = ", ".join(layer.name for layer in chosen[:5])
            raise ConfigError(f"neighbors.layer: expected one layer, but {self.layer!r} selects {len(chosen)}: {names}")
        return chosen[0].name

    def _further(self, subject: Subject) -> tuple[str, ...]:
        chosen = select_layers(self.also, subject.layers) if self.also else ()
        return tuple(layer.name for layer in chosen if layer.name != self._layer(subject))

    def _table(self, layer: str, stored: Stored) -> Table:
        try:
            rows = stored[f"features/{layer}"]
        except StoreError as error:
            raise StageError(
                f"neighbors: features of {layer} are not stored; add {layer!r} to features.layers"
            ) from error
        return Table(rows, np.asarray(stored["predictions/status"][:]) == 0, self.metric, self.block)

    def _enough(self, n: int) -> None:
        if self.k >= n:
            raise ConfigError(
                f"neighbors.k: {self.k} neighbors need more than {self.k} usable images, got {n}; set a smaller k"
            )


def pieces(n: int, block: int, shard: int) -> list[range]:
    """Cut images into about equal runs of whole shards, none much above a block, and an even number of several.

    Equal ones end together, on two workers or four; each reads the whole table, so that few are better than many.
    """
    count = -(-n // block)
    count += count % 2 if count > 1 else 0
    step = -(-n // (count * shard)) * shard
    return [range(a, min(a + step, n)) for a in range(0, n, step)]


def _labels(subject: Subject, index: np.ndarray) -> np.ndarray:
    return np.where(index >= 0, subject.label[index], -1)
