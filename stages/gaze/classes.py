"""Where the network looks: heatmaps of each class and of each confused pair, averaged over the whole data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from . import grids
from .groups import group_sides, mean_maps, means, members
from .sources import Source

POOLED = ArraySpec(
    "pooled",
    ("image", "*space"),
    "float32",
    "1",
    "Share of each image's evidence in each cell; all 0 without evidence.",
)
BORDER = ArraySpec("border", ("image",), "float32", "1", "Share of the evidence in the outer ring of cells.")
CENTRE = ArraySpec(
    "centre", ("image", "axis"), "float32", "1", "Centre of mass of the evidence, 0 to 1 along each axis of the input."
)
SPREAD = ArraySpec(
    "spread", ("image",), "float32", "1", "Root mean squared distance from that centre, in lengths of the input."
)
GROUP = ArraySpec(
    "group",
    ("group", "side"),
    "int32",
    "class",
    "Label and prediction of a group: every class with itself, then confused pairs; -1: row not used.",
)
N = ArraySpec("n", ("group",), "int64", "images", "Images of the group with evidence for the prediction.")
BLANK = ArraySpec("blank", ("group",), "int64", "images", "Images of the group whose map holds no evidence at all.")
HEATMAP = ArraySpec("heatmap", ("group", "*space"), "float64", "1", "Mean of the images' shares; adds up to 1.")
_MEAN, _BOUND = "Mean over the images of the group.", "95 % bounds of that mean, by Student's t."
MEANS = tuple(
    ArraySpec(f"group_{name}{ending}", ("group", *axes, *more), "float64", "1", meaning)
    for name, axes in (("border", ()), ("centre", ("axis",)), ("spread", ()))
    for ending, more, meaning in (("", (), _MEAN), ("_bound", ("bound",), _BOUND))
)


@dataclass(frozen=True)
class ClassesLeaf(Leaf):
    """Mean heatmaps, and where they lie.

    Parameters
    ----------
    source
        Heatmaps to look at.
    pairs
        How many confused pairs at most.
    """

    source: Source
    pairs: int

    documents: ClassVar[tuple[ArraySpec, ...]] = (POOLED, BORDER, CENTRE, SPREAD, GROUP, N, BLANK, HEATMAP, *MEANS)

    def __post_init__(self) -> None:
        if self.pairs < 0:
            raise ConfigError(f"gaze.pairs: expected 0 or more, got {self.pairs}")

    @property
    def name(self) -> str:
        """Stage and part."""
        return "gaze/classes"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """Heatmaps, and what was answered."""
        return (self.source.leaf, "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per image and one per group."""
        grid, n, axis = self.source.grid(subject), subject.n_image, len(subject.axes)
        groups = subject.n_class + self.pairs
        rows = (POOLED.sized((n, *grid), subject.axes), BORDER.sized((n,)), CENTRE.sized((n, axis)), SPREAD.sized((n,)))
        table = (GROUP.sized((groups, 2)), N.sized((groups,)), BLANK.sized((groups,)))
        lengths = {"group": groups, "axis": axis, "bound": 2}
        averages = (spec.sized(tuple(lengths[dim] for dim in spec.dims)) for spec in MEANS)
        return (*rows, *table, HEATMAP.sized((groups, *grid), subject.axes), *averages)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One block of images per shard."""
        del stored
        return [
            Task(self.name, start=shard.start, argument={"first": shard.start, "last": shard.stop})
            for shard in subject.shards()
        ]

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Pool the heatmaps of one block of images, and say where their evidence lies."""
        first, last = task.argument["first"], task.argument["last"]
        shares = grids.distributions(self.source.heatmaps(stored, subject, first, last), self.source.grid(subject))
        edges = self.source.edges(subject, stored)
        rows = {
            "pooled": shares,
            "border": grids.border_share(shares),
            "centre": grids.centres(shares, edges),
            "spread": grids.spreads(shares, edges),
        }
        return Result({path: values.astype(np.float32) for path, values in rows.items()})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Average over the images of each class and pair."""
        del partials
        predicted = np.asarray(stored["predictions/predicted"][:])
        label = np.asarray(subject.label)
        sides = group_sides(label, predicted, subject.n_class, self.pairs)
        group = members(sides, label, predicted)
        explained = self.source.classes(stored, 0, subject.n_image)
        other = (group >= 0) & (explained != predicted)
        group = np.where(other, -1, group)
        share = np.asarray(stored[f"{self.name}/border"][:])
        known = np.isfinite(share)
        counted = np.where(known, group, -1)
        heatmap, n = mean_maps(self._blocks(subject, stored, counted), len(sides), self.source.grid(subject))
        whole = np.isfinite(np.asarray(stored[f"{self.name}/pooled"][:]).reshape(len(group), -1)).all(axis=1)
        blank = np.bincount(group[(group >= 0) & ~known & whole], minlength=len(sides))
        arrays = {"group": sides, "n": n, "blank": blank.astype(np.int64), "heatmap": heatmap}
        arrays |= self._averages(subject, stored, counted, len(sides))
        told = self._notes(subject, stored, int(other.sum()), int(blank.sum()), n)
        return Summary(arrays, (_measured(share, counted, subject.n_class),), (), told)

    def _blocks(self, subject: Subject, stored: Stored, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for shard in subject.shards():
            part = slice(shard.start, shard.stop)
            yield group[part], np.asarray(stored[f"{self.name}/pooled"][part])

    def _averages(self, subject: Subject, stored: Stored, group: np.ndarray, n_group: int) -> dict[str, np.ndarray]:
        found = {}
        for name, highest in (("border", 1.0), ("spread", math.sqrt(len(subject.axes)))):
            mean = means(np.asarray(stored[f"{self.name}/{name}"][:]), group, n_group, highest)
            found |= {f"group_{name}": mean.value, f"group_{name}_bound": mean.bound}
        place = np.asarray(stored[f"{self.name}/centre"][:])
        along = [means(place[:, axis], group, n_group, 1.0) for axis in range(place.shape[1])]
        found["group_centre"] = np.stack([mean.value for mean in along], axis=1)
        found["group_centre_bound"] = np.stack([mean.bound for mean in along], axis=1)
        return found

    def _notes(self, subject: Subject, stored: Stored, other: int, blank: int, n: np.ndarray) -> dict[str, Any]:
        right = int(n[: subject.n_class].sum())
        edges = self.source.edges(subject, stored)
        reason = {} if right else {"reason": "no image is right, or none of the heatmaps explains the prediction"}
        return {
            "status": "measured" if right else "not applicable",
            **reason,
            "n": right,
            "heatmaps": "/".join(filter(None, (self.source.leaf, self.source.layer_name(subject)))),
            "grid": list(self.source.grid(subject)),
            "edges": [edge.tolist() for edge in edges],
            "placed_by": "receptive fields" if self.source.aligned(subject, stored) else "proportion",
            "blank_heatmaps": blank,
            "heatmaps_of_another_class": other,
            "definition": "Evidence against the class is left out, and every image's evidence adds up to 1. A class is "
            "its images that are right, a pair those of one label with one wrong prediction.",
        }


def _measured(share: np.ndarray, group: np.ndarray, n_class: int) -> Measurement:
    right = np.where(group < n_class, group, -1)
    every = means(share, np.where(right >= 0, 0, -1), 1, 1.0)
    low, high = (None if math.isnan(end) else float(end) for end in every.bound[0])
    return Measurement(
        "gaze/border_share",
        float(every.value[0]),
        "1",
        "neither",
        int(((right >= 0) & np.isfinite(share)).sum()),
        "gaze/classes/border",
        "Mean share of the evidence in the outer ring of cells, over images that are right and have evidence.",
        low,
        high,
    )
