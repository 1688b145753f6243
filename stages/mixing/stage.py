"""Which classes the network mixes from inside: confusion, distance of centroids and shared neighbors, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..numerics.chance import is_chance
from ..specs import ArraySpec, Finding, SizedArray, Summary
from .agreement import agreements
from .examples import nearest_images, taken_images
from .findings import Told, findings
from .judgements import definitions, largest, measurements, pair_rows, unmeasured
from .links import Links, links
from .pairs import Judged, evidence, judged
from .separation import Separation, Table, separation

#: Up to so many classes all pairs are stored.
MOST = 1000
_BOTH = ("class", "other")

PAIR = ArraySpec(
    "pair", ("pair", "side"), "int32", "class", "Pairs of classes: confused first, close next, others by joint rank."
)
VERDICT = ArraySpec(
    "verdict",
    ("pair",),
    "int8",
    "1",
    "0 apart, 1 close but not confused, 2 representation problem, 3 head problem, 4 inconclusive.",
)
VALUE = ArraySpec(
    "value", ("pair", "signal"), "float64", "1", "Share confused, separation, and enrichment of links, of each pair."
)
RANK = ArraySpec(
    "rank", ("pair", "signal"), "float64", "1", "Rank of each signal from 1, the most mixed pair; NaN: too few images."
)
JOINT = ArraySpec("joint", ("pair",), "float64", "1", "Rank of the mean of the three ranks.")
NEAREST = ArraySpec(
    "nearest",
    ("pair", "side", "example"),
    "int64",
    "image",
    "Images of each class of a pair that lie nearest to the centroid of the other one.",
)
TAKEN = ArraySpec(
    "taken",
    ("pair", "side", "example"),
    "int64",
    "image",
    "Images of each class of a pair that are answered as the other one, surest first.",
)
CONFUSED = ArraySpec(
    "confused", _BOTH, "float64", "1", "Share of the images of two classes that are answered as the other one."
)
SEPARATION = ArraySpec(
    "separation",
    _BOTH,
    "float64",
    "1",
    "Distance of two centroids, less what chance gives, in pooled standard deviations along the line between them.",
)
CROSSED = ArraySpec(
    "crossed",
    _BOTH,
    "float64",
    "images",
    "Images of the class that lie nearer to the other's centroid than to that of the others of their own.",
)
LINKS = ArraySpec(
    "links", ("class", "neighbor"), "int64", "1", "Neighbor links from images of the class to those of the other."
)
ENRICHMENT = ArraySpec(
    "enrichment",
    _BOTH,
    "float64",
    "1",
    "Share of the links starting in two classes that end in the other one, over what class sizes give by chance.",
)
ALL_VERDICTS = ArraySpec("verdicts", _BOTH, "int8", "1", "Verdict of each pair, coded as verdict.")
_PAIRS = (PAIR, VERDICT, VALUE, RANK, JOINT, NEAREST, TAKEN)
_MATRICES = (CONFUSED, SEPARATION, CROSSED, LINKS, ENRICHMENT, ALL_VERDICTS)


@dataclass(frozen=True)
class _Seen:
    """What was read of the classes."""

    table: Table
    predicted: np.ndarray
    matrix: np.ndarray
    inside: Separation
    near: Links


@dataclass(frozen=True)
class Mixing(SoleLeaf):
    """Three signals for every pair of classes, whether they agree, and what each pair suffers from.

    Layer and metric are those of the stage `neighbors`.

    Parameters
    ----------
    pairs
        Pairs that are kept with examples.
    examples
        Images per class and pair, of either kind.
    min_support
        Images that each class of a pair needs, of every signal, for the pair to be judged.
    level
        Share of false ones allowed among the pairs that are said to stand out.
    """

    pairs: int = 12
    examples: int = 2
    min_support: int = 10
    level: float = 0.05

    name: ClassVar[str] = "mixing"
    documents: ClassVar[tuple[ArraySpec, ...]] = (*_PAIRS, *_MATRICES)

    def __post_init__(self) -> None:
        for key, least in (("pairs", 1), ("examples", 1), ("min_support", 2)):
            if getattr(self, key) < least:
                raise ConfigError(f"mixing.{key}: expected {least} or more, got {getattr(self, key)}")
        if not 0 < self.level < 1:
            raise ConfigError(f"mixing.level: expected more than 0 and less than 1, got {self.level}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Answers, their counts, features, and neighbors."""
        return ("predictions", "confusion", "features", "neighbors")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The first pairs and, unless there are too many, the matrices of all."""
        n = subject.n_class
        shapes = (2,), (), (3,), (3,), (), (2, self.examples), (2, self.examples)
        first = [spec.sized((self.pairs, *shape)) for spec, shape in zip(_PAIRS, shapes, strict=True)]
        return (*first, *(spec.sized((n, n)) for spec in (_MATRICES if n <= MOST else ())))

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """No tasks: `finish` reads features and links block by block."""
        del subject, stored
        return []

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Measure, judge, and say what stands out."""
        del partials
        compared = stored.summary("neighbors").notes
        usable = np.isin(np.asarray(stored["neighbors/search"][:]), (0, 1, 2)) & (subject.label >= 0)
        held = int((np.bincount(subject.label[usable], minlength=2) > 0).sum())
        if held < 2:
            return self._nothing(subject, held)
        seen = self._seen(subject, stored, usable)
        found = judged(evidence(seen.matrix, seen.inside, seen.near, self.min_support), self.level)
        first = found.order()[: self.pairs]
        pair = np.stack([found.evidence.first, found.evidence.second], axis=1)[first]
        confidence = np.asarray(stored["predictions/confidence"][:])
        near = nearest_images(seen.table, subject.label, seen.inside.centroid, pair, self.examples)
        taken = taken_images(subject.label, seen.predicted, confidence, pair, self.examples)
        arrays = self._arrays(found, first, pair, near, taken)
        if subject.n_class <= MOST:
            arrays |= _matrices(seen, found)
        agreed, chance = agreements(found.evidence), _at_chance(subject, seen.predicted)
        told = Told(found, first, agreed, subject.class_names, near, taken, self.min_support, chance)
        left_out = int(((np.asarray(stored["predictions/status"][:]) == 0) & ~usable).sum())
        notes = self._notes(told, seen, compared) | {"images_left_out": left_out, "stored": subject.n_class <= MOST}
        return Summary(arrays, measurements(found, agreed), findings(told), notes)

    def _seen(self, subject: Subject, stored: Stored, usable: np.ndarray) -> _Seen:
        compared = stored.summary("neighbors").notes
        layer = str(compared["layer"])
        table = Table(stored[f"features/{layer}"], usable, compared["metric"])
        predicted = np.asarray(stored["predictions/predicted"][:])
        width = subject.layer(layer).shape[0]
        return _Seen(
            table,
            predicted,
            np.asarray(stored["confusion/matrix"][:]),
            separation(table, subject.label, predicted, subject.n_class, width),
            links(stored["neighbors/index"], usable, subject.label, subject.n_class),
        )

    def _arrays(
        self, found: Judged, first: np.ndarray, pair: np.ndarray, near: np.ndarray, taken: np.ndarray
    ) -> dict[str, np.ndarray]:
        values = (
            pair.astype(np.int32), found.verdict[first], found.evidence.value[first], found.rank[first],
            found.joint[first], near, taken,
        )  # fmt: skip
        return {spec.path: _filled(array, self.pairs, spec) for spec, array in zip(_PAIRS, values, strict=True)}

    def _notes(self, told: Told, seen: _Seen, compared: Any) -> dict[str, Any]:
        return {
            "status": "measured",
            "layer": compared["layer"],
            "metric": compared["metric"],
            "k": compared["k"],
            "pairs_of_classes": len(told.found.evidence),
            "pairs_judged": int(told.found.evidence.enough.sum()),
            "largest": largest(told.found),
            "rows": pair_rows(told.found, told.first, seen.matrix, seen.inside, seen.near),
            "agreement": [vars(one) | {"value": None if np.isnan(one.value) else one.value} for one in told.agreed],
            "definitions": definitions(compared, self.min_support, self.level),
            "not_applicable": unmeasured(told.found, told.agreed, self.min_support),
        }

    def _nothing(self, subject: Subject, held: int) -> Summary:
        arrays = {array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in self.writes(subject)}
        reason = f"{'one class has' if held else 'no class has'} labelled images that can be compared; it takes two"
        finding = Finding(
            "mixing/not-judged",
            "warning" if subject.n_class > 1 else "info",
            "No two classes could be held against each other",
            f"Of {subject.n_class} classes, {reason}: a label, and features that are finite (under cosine not all 0)."
            " What next: look at the labels of the data, and at what the stage neighbors says of the features.",
        )
        return Summary(arrays, findings=(finding,), notes={"status": "not applicable", "reason": reason})


def _at_chance(subject: Subject, predicted: np.ndarray) -> bool:
    answered = (subject.label >= 0) & (predicted >= 0)
    return bool(answered.any()) and is_chance(subject.label[answered], predicted[answered], subject.n_class)


def _filled(values: np.ndarray, length: int, spec: ArraySpec) -> np.ndarray:
    """Pad with the fill value: there may be fewer pairs than are asked for."""
    full = np.full((length, *values.shape[1:]), spec.fill, spec.dtype)
    full[: len(values)] = values
    return full


def _matrices(seen: _Seen, found: Judged) -> dict[str, np.ndarray]:
    """Every pair, both ways round; the diagonal is unknown."""
    known, n = found.evidence, len(seen.matrix)
    verdicts, confused = np.full((n, n), -1, np.int8), np.full((n, n), np.nan)
    for one, two in ((known.first, known.second), (known.second, known.first)):
        verdicts[one, two], confused[one, two] = found.verdict, known.value[:, 0]
    return {
        "confused": confused,
        "separation": seen.inside.value,
        "crossed": seen.inside.crossed,
        "links": seen.near.count,
        "enrichment": seen.near.enrichment,
        "verdicts": verdicts,
    }
