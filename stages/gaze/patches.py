"""What the images of a suspected class, or of a group within it, have in common: their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..numerics.seeds import numpy_generator
from ..specs import ArraySpec, SizedArray, Summary

if TYPE_CHECKING:
    from ..network.batch import Batch

MEAN = ArraySpec(
    "mean",
    ("candidate", "channel", "*space"),
    "float32",
    "network input",
    "Mean of the candidate's images that are right; NaN: row not used.",
)
COUNT = ArraySpec("n", ("candidate",), "int64", "images", "Images behind that mean; -1: row not used.")


@dataclass(frozen=True)
class PatchesLeaf(Leaf):
    """The mean image of every candidate class.

    Parameters
    ----------
    most
        Candidates at most.
    images
        Images per candidate at most.
    """

    most: int
    images: int

    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (MEAN, COUNT)

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"gaze.images: expected 1 or more, got {self.images}")

    @property
    def name(self) -> str:
        """Stage and part."""
        return "gaze/patches"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """The candidates, and what was answered."""
        return ("gaze/clusters", "gaze/shortcuts", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One image per candidate."""
        return MEAN.sized((self.most, *subject.input_shape), subject.axes), COUNT.sized((self.most,))

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One per candidate and shard; none without candidates."""
        return [
            Task(self.name, images, start=images[0], argument={"candidate": row})
            for row, label, group in tried_candidates(stored)
            for images in by_shard(subject, own_images(subject, stored, label, group, self.images))
        ]

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Add up the images of one batch."""
        del subject
        valid = np.asarray(batch.valid, bool)
        images = batch.images.detach().double().cpu().numpy()[valid]
        row = task.argument["candidate"]
        return Result(partial={f"sum:{row}": images.sum(axis=0), f"n:{row}": np.array(len(images))})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Divide."""
        del stored
        mean = np.full((self.most, *subject.input_shape), np.nan, np.float32)
        n = np.full(self.most, -1, np.int64)
        for row in range(self.most):
            parts = [part for part in partials if f"sum:{row}" in part]
            if parts:
                n[row] = sum(int(part[f"n:{row}"]) for part in parts)
                total = np.sum([part[f"sum:{row}"] for part in parts], axis=0)
                mean[row] = total / n[row] if n[row] else np.nan
        return Summary({"mean": mean, "n": n})


def tried_candidates(stored: Stored) -> list[tuple[int, int, int]]:
    """Row, class and group (-1 for the whole class) of every candidate."""
    labels, groups = (np.asarray(stored[f"gaze/shortcuts/{name}"][:]) for name in ("class", "group"))
    return [(row, int(labels[row]), int(groups[row])) for row in range(len(labels)) if labels[row] >= 0]


def own_images(subject: Subject, stored: Stored, label: int, group: int, most: int) -> np.ndarray:
    """Right images of a class, or of one group within it: all, or a random sample, in the order of the data set."""
    predicted = np.asarray(stored["predictions/predicted"][:])
    inside = (predicted == subject.label) & (predicted == label)
    if group >= 0:
        inside &= np.asarray(stored["gaze/clusters/cluster"][:]) == group
    return _sample(subject, np.flatnonzero(inside), most, f"class {label}, group {group}", "gaze/own")


def other_images(subject: Subject, stored: Stored, label: int, most: int) -> np.ndarray:
    """Right images of all other classes: all, or a random sample, in the order of the data set."""
    predicted = np.asarray(stored["predictions/predicted"][:])
    images = np.flatnonzero((predicted == subject.label) & (predicted >= 0) & (predicted != label))
    return _sample(subject, images, most, f"class {label}", "gaze/others")


def by_shard(subject: Subject, images: np.ndarray) -> list[tuple[int, ...]]:
    """Cut ascending positions where shards end."""
    parts = [images[(images >= shard.start) & (images < shard.stop)] for shard in subject.shards()]
    return [tuple(map(int, part)) for part in parts if len(part)]


def _sample(subject: Subject, images: np.ndarray, most: int, name: str, purpose: str) -> np.ndarray:
    if len(images) <= most:
        return images
    return np.sort(numpy_generator(subject.seed, name, purpose).choice(images, most, replace=False))
