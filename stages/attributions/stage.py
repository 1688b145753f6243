"""Which parts of each image a logit rests on: one leaf per method, all riding on the same backward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Ask, Leaf, Partial, Result, Stage, Stored, Subject, Task, Unit, settings
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, Measurement, SizedArray, Summary
from .method import LayerMethod, Method, PixelMethod

if TYPE_CHECKING:
    from ..network.batch import Batch

TARGET = ArraySpec(
    "target", ("image", "target"), "int32", "class", "Class whose logit each heatmap explains; -1 for none, or a unit."
)


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
        shape = (subject.n_image, len(self.method.targets(subject)))
        return (*self.method.writes(subject), TARGET.sized(shape))

    def asks(self, subject: Subject) -> Ask:
        """What the method asks."""
        if self.method.images == "wrong" and (np.asarray(subject.label) < 0).any():
            raise ConfigError(f"{self.name}: images 'wrong' needs labels, and some images have none; use 'all'")
        return self.method.asks(subject)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Let the method work, and note maps that are empty or not finite."""
        del task
        chosen = self._chosen(batch)
        part = batch if len(chosen) == len(batch) else batch.only(chosen)
        if not len(chosen):
            return Result(self._blank(len(batch), subject), {})
        heatmaps, facts = self.method.work(part, subject)
        targets, valid = self.method.targets(subject), np.asarray(part.valid, bool)
        target = np.stack([part.target_class(one) for one in targets], axis=1).astype(np.int32)
        finite = np.asarray(np.isfinite(part.logits.float().cpu().numpy()).all(axis=1))
        # A unit is no class, but every image has it.
        inside = np.array([isinstance(one, Unit) for one in targets])
        expected = (target >= 0) | (valid[:, None] & (inside | ~finite[:, None]))
        partial = _oddities(heatmaps, np.asarray(part.positions, np.int64), expected) | {
            f"fact:{key}": np.asarray(value) for key, value in facts.items()
        }
        rows = {**heatmaps, "target": target}
        if len(chosen) < len(batch):
            whole = self._blank(len(batch), subject)
            for path, values in rows.items():
                whole[path][chosen] = values
            rows = whole
        return Result(rows, partial)

    def _chosen(self, batch: Batch) -> np.ndarray:
        if self.method.images == "all":
            return np.arange(len(batch))
        predicted = batch.target_class("predicted")
        return np.flatnonzero((predicted >= 0) & (predicted != batch.labels))

    def _blank(self, n: int, subject: Subject) -> dict[str, np.ndarray]:
        return {
            array.path: np.full((n, *array.shape[1:]), array.spec.fill, array.spec.dtype)
            for array in self.writes(subject)
        }

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain lists of images; add up facts that are sums, and keep the first of any other."""
        both: dict[str, np.ndarray] = {**second, **first}
        for key in set(first) & set(second):
            if key.startswith("fact:sum:"):
                both[key] = first[key] + second[key]
            elif not key.startswith("fact:"):
                both[key] = np.concatenate([first[key], second[key]])
        return both

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Name the images whose maps say nothing, and add what the method has to tell."""
        total = reduce(self.combine, partials)
        findings = []
        for key in sorted(key for key in total if not key.startswith("fact:")):
            kind, path = key.split(":", 1)
            if len(total[key]):
                findings.append(_finding(kind, f"{self.name}/{path}", np.unique(total[key])))
        facts = {key.removeprefix("fact:"): value for key, value in total.items() if key.startswith("fact:")}
        facts |= {path: np.asarray(stored[f"{self.name}/{path}"][:]) for path in self.method.recalls}
        told, measurements, more = self.method.told(facts, subject)
        notes = {
            "signed": self.method.signed,
            "conserves": self.method.conserves,
            "unit": self.method.unit,
            "config": dict(self.config),
            **told,
            **_rendering(self.method, told),
        }
        return Summary({}, tuple(map(self._named, measurements)), (*findings, *more), notes)

    def _named(self, measurement: Measurement) -> Measurement:
        """A method does not know what it is called in the store."""
        name, path = measurement.name, measurement.path
        if not name.startswith("attributions/"):
            name = f"{self.name}/{name}"
        return replace(measurement, name=name, path=path if path.startswith(f"{self.name}/") else f"{self.name}/{path}")


def _rendering(method: Method, told: Mapping[str, Any]) -> dict[str, Any]:
    """How heatmaps are to be read, from what a method is where it does not say so itself."""
    kinds = {LayerMethod: "layer", PixelMethod: "pixels"}
    known = [("kind", kind) for base, kind in kinds.items() if isinstance(method, base)]
    rendering = dict(known) | dict(told.get("rendering", {}))
    return {"rendering": rendering} if rendering else {}


def _oddities(heatmaps: Mapping[str, np.ndarray], positions: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    """Images with a map that is zero throughout, or not finite, where one is expected, for each array of maps."""
    odd = {}
    for path, rows in heatmaps.items():
        if path.endswith("heatmap"):
            flat = rows.reshape(*expected.shape, -1)
            odd[f"blank:{path}"] = positions[(expected & (flat == 0).all(axis=2)).any(axis=1)]
            odd[f"not-finite:{path}"] = positions[(expected & ~np.isfinite(flat).all(axis=2)).any(axis=1)]
        if path in ("score", "slot_score"):
            # What was not computed has no score at all; neither has a class that takes no slot.
            computed = np.arange(rows.shape[1]) < heatmaps.get("used", np.full(len(rows), rows.shape[1]))[:, None]
            lost = (computed & ~np.isfinite(rows).any(axis=2)).any(axis=1)
            odd[f"not-finite:{path}"] = positions[lost & expected.any(axis=1)]
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
        f"{path} of {len(shown)} images holds values that are not finite",
        "Expected finite numbers; look at the logits of these images and at the model's weights.",
        shown,
    )
