"""What a report is made from: the store, the config and what both say about images, classes and layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..stages.contract import Stored
from ..stages.specs import STATUS


class Store(Stored, Protocol):
    """The part of `convaudit.pipelines.store.RunStore` that reports read."""

    def arrays(self, leaf: str) -> tuple[str, ...]:
        """Full paths of a leaf's arrays; none where it failed."""
        ...

    def images(self) -> pd.DataFrame:
        """Index of the images, with at least the columns id and label."""
        ...

    def subject(self) -> dict[str, Any]:
        """What was audited."""
        ...


#: Arrays of at most this many bytes are read whole, however few rows are asked for, and the last of them are kept.
_SMALL, _LOADED = 2**21, 128


class Remembering:
    """A finished store that is asked for each thing once: listing and opening arrays takes longer than reading them.

    Parameters
    ----------
    store
        One that nobody writes to meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self.leaves, self.images, self.subject = cache(store.leaves), store.images, store.subject
        self.arrays, self.summary, self.failure = cache(store.arrays), cache(store.summary), cache(store.failure)
        self._opened = cache(store.__getitem__)
        self._loaded = lru_cache(_LOADED)(self._load)

    def __getitem__(self, path: str) -> Any:
        array = self._opened(path)
        small = getattr(array, "nbytes", _SMALL + 1) <= _SMALL
        return self._loaded(path) if small else array

    def _load(self, path: str) -> np.ndarray:
        values = np.asarray(self._opened(path)[...]).view()
        values.flags.writeable = False
        return values


@dataclass(frozen=True)
class Limits:
    """How much one report shows.

    Parameters
    ----------
    rows
        Longest table.
    pictures
        Most pictures in one gallery.
    """

    rows: int
    pictures: int


@dataclass(frozen=True)
class Material:
    """The store and the config of one run, with the lookups that every section needs."""

    store: Store
    config: Mapping[str, Any]
    limits: Limits

    def leaves(self, noun: str) -> tuple[str, ...]:
        """Leaves of one stage that were run or tried, by name."""
        return tuple(leaf for leaf in sorted(self.store.leaves()) if leaf.partition("/")[0] == noun)

    def has(self, leaf: str) -> bool:
        """Whether a leaf was run and did not fail."""
        return leaf in self.store.leaves() and self.store.failure(leaf) is None

    def array(self, path: str) -> np.ndarray:
        """A whole stored array."""
        return np.asarray(self.store[path][...])

    def rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Some rows of a stored array."""
        return np.asarray(self.store[path][start:stop])

    def row(self, path: str, position: int) -> np.ndarray:
        """One row of a stored array."""
        return self.rows(path, position, position + 1)[0]

    def notes(self, leaf: str) -> Mapping[str, Any]:
        """What a leaf noted; empty where it did not run."""
        return self.store.summary(leaf).notes if self.has(leaf) else {}

    @cached_property
    def subject(self) -> dict[str, Any]:
        """What was audited."""
        return self.store.subject()

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Stable name of each image."""
        return tuple(map(str, self.store.images()["id"]))

    @cached_property
    def labels(self) -> np.ndarray:
        """Class position of each image, -1 where it has none; shape ``(image,)``."""
        return np.asarray(self.store.images()["label"].fillna(-1), int)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return tuple(map(str, self.subject.get("class_names", ())))

    @cached_property
    def layer_order(self) -> dict[str, int]:
        """Place of each layer in the forward pass."""
        layers = self.subject.get("layers", ())
        return {layer["name"] if isinstance(layer, Mapping) else str(layer): at for at, layer in enumerate(layers)}

    @cached_property
    def predicted(self) -> np.ndarray | None:
        """Predicted class position of each image, -1 where there is none; None where the stage did not run."""
        return self.array("predictions/predicted").astype(int) if self.has("predictions") else None

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """Softmax of the predicted class, 0 to 1; None where the stage did not run."""
        return self.array("predictions/confidence").astype(float) if self.has("predictions") else None

    @cached_property
    def status(self) -> np.ndarray | None:
        """Code of each image in ``specs.STATUS``, -1 where it was never looked at; None where the stage did not run."""
        return self.array("predictions/status").astype(int) if self.has("predictions") else None

    @cached_property
    def judged(self) -> np.ndarray:
        """Positions of the images that were read, have a label and a prediction."""
        if self.predicted is None or self.status is None:
            return np.empty(0, int)
        return np.flatnonzero((self.status == 0) & (self.labels >= 0) & (self.predicted >= 0))

    @cached_property
    def wrong(self) -> np.ndarray:
        """Positions of misclassified images, most confident first; equals by position."""
        if self.predicted is None or self.confidence is None:
            return np.empty(0, int)
        wrong = self.judged[self.predicted[self.judged] != self.labels[self.judged]]
        return wrong[np.lexsort((wrong, -self.confidence[wrong]))]

    def class_name(self, position: int) -> str:
        """Name of a class; "no label" for -1."""
        if position < 0:
            return "no label"
        return self.class_names[position] if position < len(self.class_names) else f"class {position}"

    def status_word(self, position: int) -> str:
        """What happened when an image was read."""
        if self.status is None or self.status[position] == 0:
            return "ok"
        code = int(self.status[position])
        return "never looked at" if code < 0 else STATUS[code].replace("_", " ")

    def layers_of(self, leaf: str, suffix: str) -> tuple[str, ...]:
        """Layers for which a leaf stored ``{layer}/<suffix>``, in the order of the forward pass."""
        if not self.has(leaf):
            return ()
        head, tail = f"{leaf}/", f"/{suffix}"
        paths = [path for path in self.store.arrays(leaf) if path.startswith(head) and path.endswith(tail)]
        names = [path[len(head) : -len(tail)] for path in paths if len(path) > len(head) + len(tail)]
        return tuple(sorted(names, key=lambda name: (self.layer_order.get(name, len(self.layer_order)), name)))
