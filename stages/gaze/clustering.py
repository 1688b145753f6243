"""Whether a class is recognised in more than one way: groups among its heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..numerics.seeds import numpy_generator, stable_seed
from ..specs import ArraySpec, SizedArray, Summary
from .sources import Source
from .spectral import clusters

CLUSTER = ArraySpec(
    "cluster", ("image",), "int32", "1", "Group of the image within its class, the largest first; -1: not sampled."
)
SIZE = ArraySpec("size", ("class", "cluster"), "int64", "images", "Images of each group.")
HEATMAP = ArraySpec("heatmap", ("class", "cluster", "*space"), "float32", "1", "Mean of the group's shares.")
EIGENVALUE = ArraySpec(
    "eigenvalue", ("class", "rank"), "float64", "1", "Smallest eigenvalues of the class's graph, ascending."
)
# Classes per task.
_BLOCK = 32
# Fewer images have no groups that would mean anything.
_LEAST = 12


@dataclass(frozen=True)
class ClustersLeaf(Leaf):
    """Groups of heatmaps within each class.

    Parameters
    ----------
    source
        Heatmaps to look at.
    most
        Groups per class at most.
    images
        Images per class at most; a random sample of more.
    """

    source: Source
    most: int
    images: int

    documents: ClassVar[tuple[ArraySpec, ...]] = (CLUSTER, SIZE, HEATMAP, EIGENVALUE)

    def __post_init__(self) -> None:
        for key, given, least in (("clusters", self.most, 1), ("cluster_images", self.images, 2)):
            if given < least:
                raise ConfigError(f"gaze.{key}: expected {least} or more, got {given}")

    @property
    def name(self) -> str:
        """Stage and part."""
        return "gaze/clusters"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """Pooled heatmaps, whose class they explain, and what was answered."""
        return ("gaze/classes", self.source.leaf, "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One number per image, and a table of groups."""
        table = (subject.n_class, self.most)
        return (
            CLUSTER.sized((subject.n_image,)),
            SIZE.sized(table),
            HEATMAP.sized((*table, *self.source.grid(subject)), subject.axes),
            EIGENVALUE.sized((subject.n_class, self.most + 1)),
        )

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """Some classes each; their images are everywhere, so that rows are written when all are done."""
        del stored
        firsts = range(0, subject.n_class, _BLOCK)
        return [Task(self.name, argument={"first": a, "last": min(a + _BLOCK, subject.n_class)}) for a in firsts]

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Sort the images of some classes."""
        share = np.asarray(stored["gaze/classes/border"][:])
        predicted = np.asarray(stored["predictions/predicted"][:])
        explained = self.source.classes(stored, 0, subject.n_image)
        usable = np.isfinite(share) & (predicted == subject.label) & (explained == predicted)
        shares = np.asarray(stored["gaze/classes/pooled"][:]).reshape(subject.n_image, -1)
        position, group, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], []
        for label in range(task.argument["first"], task.argument["last"]):
            chosen = self._sample(subject, label, np.flatnonzero(usable & (subject.label == label)))
            seed = stable_seed(subject.seed, f"class {label}", "gaze/clusters/eigensolver")
            found, value = clusters(shares[chosen], self.most, _LEAST, seed)
            position.append(chosen)
            group.append(found)
            values.append(value)
        return Result(
            partial={"position": np.concatenate(position), "group": np.concatenate(group), "value": np.stack(values)}
        )

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Average the maps of each group."""
        position, group, values = (np.concatenate([part[key] for part in partials]) for key in _KEYS)
        label = np.asarray(subject.label)[position]
        cluster = np.full(subject.n_image, -1, np.int32)
        cluster[position] = group
        size = np.zeros((subject.n_class, self.most), np.int64)
        np.add.at(size, (label, group), 1)
        total = np.zeros((*size.shape, *self.source.grid(subject)))
        np.add.at(total, (label, group), np.asarray(stored["gaze/classes/pooled"][:])[position])
        divisor = np.where(size > 0, size, np.nan).reshape(*size.shape, *(1,) * len(subject.axes))
        arrays = {"cluster": cluster, "size": size, "heatmap": (total / divisor).astype(np.float32)}
        several = int(((size > 0).sum(axis=1) > 1).sum())
        return Summary(
            {**arrays, "eigenvalue": values},
            notes={
                "status": "measured" if len(position) else "not applicable",
                "n": len(position),
                "classes_with_several_groups": several,
                **self._sampled(subject, stored),
                "definition": "Spectral clustering of the pooled heatmaps of each class; as many groups as the largest "
                f"gap among the first {self.most + 1} eigenvalues says, one for fewer than {_LEAST} images.",
            },
        )

    def _sampled(self, subject: Subject, stored: Stored) -> dict[str, str]:
        n = np.asarray(stored["gaze/classes/n"][:])[: subject.n_class]
        if n.max(initial=0) <= self.images:
            return {}
        return {"sampled": f"{self.images} images of a class with more, drawn at random"}

    def _sample(self, subject: Subject, label: int, images: np.ndarray) -> np.ndarray:
        if len(images) <= self.images:
            return images
        draw = numpy_generator(subject.seed, f"class {label}", "gaze/clusters/sample")
        return np.sort(draw.choice(images, self.images, replace=False))


_KEYS = ("position", "group", "value")
