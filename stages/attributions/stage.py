"""Which parts of each image a logit rests on: one leaf per method, all riding on the same backward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Ask, Leaf, Partial, Result, Stage, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, SizedArray, Summary
from .method import Method, resolve_target

if TYPE_CHECKING:
    from ..network.batch import Batch

TARGET = ArraySpec("target", ("image",), "int32", "class", "Class whose logit the heatmap explains.")


@dataclass(frozen=True)
class Attributions(Stage):
    """Heatmaps of every configured method.

    Parameters
    ----------
    methods
        `Method` by the name that it has in the store.
    """

    methods: Mapping[str, Any]

    name: ClassVar[str] = "attributions"

    def __post_init__(self) -> None:
        wrong = [key for key, method in self.methods.items() if not isinstance(method, Method)]
        if wrong or not self.methods:
            got = f"{wrong[0]}={self.methods[wrong[0]]!r}" if wrong else "none"
            raise ConfigError(f"attributions.methods: expected attribution methods with a _target_, got {got}")

    def leaves(self) -> tuple[Leaf, ...]:
        """One per method."""
        return tuple(AttributionLeaf(key, method) for key, method in self.methods.items())


@dataclass(frozen=True)
class AttributionLeaf(Leaf):
    """The heatmaps of one method."""

    key: str
    method: Method

    sweeps: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Stage and method."""
        return f"attributions/{self.key}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings of the method."""
        return settings(self.method)

    @property
    def documents(self) -> tuple[ArraySpec, ...]:  # type: ignore[override]
        """The method's arrays and the class they explain."""
        return (*self.method.documents, TARGET)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The method's arrays and the class they explain."""
        return (*self.method.writes(subject), TARGET.sized((subject.n_image,)))

    def asks(self, subject: Subject) -> Ask:
        """What the method asks."""
        return self.method.asks(subject)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Let the method work, and note maps that are empty or not finite."""
        del task
        heatmaps = self.method.attribute(batch, subject)
        target = batch.target_class(resolve_target(self.method.target, subject))
        rows = {**heatmaps, "target": np.asarray(target, np.int32)}
        return Result(rows, _oddities(heatmaps, np.asarray(batch.positions, np.int64), np.asarray(batch.valid, bool)))

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the lists."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Name the images whose maps say nothing."""
        del stored, subject
        total = reduce(self.combine, partials)
        findings = []
        for key in sorted(total):
            kind, path = key.split(":", 1)
            if len(total[key]):
                findings.append(_finding(kind, f"{self.name}/{path}", total[key]))
        notes = {
            "signed": self.method.signed,
            "conserves": self.method.conserves,
            "unit": self.method.unit,
            "config": dict(self.config),
        }
        return Summary(findings=tuple(findings), notes=notes)


def _oddities(heatmaps: Mapping[str, np.ndarray], positions: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """Images whose map is zero throughout, or not finite, for each array of maps."""
    odd = {}
    for path, rows in heatmaps.items():
        if rows.ndim > 1:
            flat = rows.reshape(len(rows), -1)
            odd[f"blank:{path}"] = positions[valid & (flat == 0).all(axis=1)]
            odd[f"not-finite:{path}"] = positions[valid & ~np.isfinite(flat).all(axis=1)]
    return odd


def _finding(kind: str, path: str, images: np.ndarray) -> Finding:
    shown = tuple(sorted(map(int, images)))
    if kind == "blank":
        return Finding(
            "attributions/blank",
            "info",
            f"{len(shown)} heatmaps of {path} are zero throughout",
            "Nothing in these images speaks for the target class at this layer (a saturated or dead path); "
            "their pictures are empty, not missing.",
            shown,
        )
    return Finding(
        "attributions/not-finite",
        "error",
        f"{len(shown)} heatmaps of {path} hold values that are not finite",
        "Expected finite numbers; look at the logits of these images and at the model's weights.",
        shown,
    )
