"""Which classes are mistaken for which, how sure each number is, and whether confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, SizedArray, Summary
from .calibration import calibration
from .classes import DOCUMENTS, class_measurements, per_class, top_rows
from .judgements import Counted, measurements, notes
from .matrix import confused_pairs, confusion_matrix, symmetric_pairs
from .mistakes import findings
from .trust import Judged, Trust, trust
from .trust import findings as doubts
from .trust import measurements as trust_measurements
from .trust import notes as trust_notes

MATRIX = ArraySpec(
    "matrix", ("label", "prediction"), "int64", "images", "Images by true label and predicted class; bad ones left out."
)
PAIR = ArraySpec(
    "pair", ("pair", "side"), "int32", "1", "Most confused directed pairs (label, prediction), by falling count."
)
PAIR_COUNT = ArraySpec("pair_count", ("pair",), "int64", "images", "Images of each pair.")
SYMMETRIC = ArraySpec(
    "symmetric", ("pair", "side"), "int32", "1", "Most confused pairs whichever way, by falling sum of both counts."
)
SYMMETRIC_COUNT = ArraySpec("symmetric_count", ("pair",), "int64", "images", "Images of each such pair, both ways.")
RANK_COUNT = ArraySpec(
    "rank_count",
    ("rank",),
    "int64",
    "images",
    "Images by how many classes stand before their label: larger logits, and equal ones of earlier classes.",
)
CLASSWISE = ArraySpec(
    "classwise_error", ("class",), "float64", "1", "Calibration error of each class's probability over all images."
)


@dataclass(frozen=True)
class Confusion(SoleLeaf):
    """Confusion matrix, recall and precision per class, the most confused pairs, and calibration.

    Parameters
    ----------
    bins
        Bins of the calibration error.
    other_bins
        Numbers of bins that it is measured with besides.
    temperature_images
        The temperature is fitted on at most so many images, drawn by the seed.
    pairs
        How many of the most confused pairs are kept.
    examples
        Images shown per pair.
    min_support
        Images a label needs for its recall to count as the worst.
    """

    bins: int = 15
    other_bins: Sequence[int] = (10, 20)
    temperature_images: int = 20_000
    pairs: int = 10
    examples: int = 6
    min_support: int = 10

    name: ClassVar[str] = "confusion"
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        *(MATRIX, PAIR, PAIR_COUNT, SYMMETRIC, SYMMETRIC_COUNT, RANK_COUNT, CLASSWISE),
        *DOCUMENTS,
    )

    def __post_init__(self) -> None:
        for key in ("bins", "pairs", "examples", "min_support", "temperature_images"):
            if getattr(self, key) < 1:
                raise ConfigError(f"confusion.{key}: expected 1 or more, got {getattr(self, key)}")
        if any(bins < 1 for bins in self.other_bins):
            raise ConfigError(f"confusion.other_bins: expected numbers of 1 or more, got {list(self.other_bins)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What the network answered."""
        return ("predictions",)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The matrix, and what is counted per pair, class and rank."""
        n = subject.n_class
        pairs = [spec.sized((self.pairs, 2)) for spec in (PAIR, SYMMETRIC)]
        pairs += [spec.sized((self.pairs,)) for spec in (PAIR_COUNT, SYMMETRIC_COUNT)]
        classes = [spec.sized((n, 2)[: len(spec.dims)]) for spec in DOCUMENTS]
        return (MATRIX.sized((n, n)), *pairs, RANK_COUNT.sized((n,)), CLASSWISE.sized((n,)), *classes)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """No tasks: `finish` counts."""
        del subject, stored
        return []

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Count, and say what stands out."""
        del partials
        counted = self._count(subject, stored)
        arrays: dict[str, Any] = {
            "matrix": counted.matrix,
            "pair": _filled(counted.pair, (self.pairs, 2)),
            "pair_count": _filled(counted.pair_count, (self.pairs,)),
            "symmetric": _filled(counted.symmetric, (self.pairs, 2)),
            "symmetric_count": _filled(counted.symmetric_count, (self.pairs,)),
        }
        if not counted.n:
            reason = "no image has both a label and a prediction"
            return Summary(arrays, notes={"status": "not applicable", "reason": reason})
        found = self._trust(subject, stored)
        arrays |= vars(per_class(counted.matrix))
        arrays |= {"rank_count": found.scores.rank_count, "classwise_error": found.scores.classwise}
        told = findings(counted, self.min_support)
        grave = any(finding.severity == "error" for finding in told)
        return Summary(
            arrays,
            (
                *measurements(counted, self.min_support),
                *class_measurements(counted.matrix, found.scores),
                *trust_measurements(found),
            ),
            # Wrong answers by the score explain wrong confidences.
            told if grave else (*told, *doubts(found, self._sure_and_wrong(subject, stored))),
            notes(counted, self.min_support)
            | {"trust": trust_notes(found, counted.calibration), "top": top_rows(found.scores)},
        )

    def _trust(self, subject: Subject, stored: Stored) -> Trust:
        predicted = np.asarray(stored["predictions/predicted"][:])
        position = np.flatnonzero((predicted >= 0) & (subject.label >= 0))
        confidence = np.asarray(stored["predictions/confidence"][:])[position]
        bins = (self.bins, *(n for n in self.other_bins if n != self.bins))
        judged = Judged(position, subject.label[position], stored, subject)
        return trust(judged, confidence, bins, self.temperature_images)

    def _sure_and_wrong(self, subject: Subject, stored: Stored) -> list[int]:
        predicted = np.asarray(stored["predictions/predicted"][:])
        confidence = np.asarray(stored["predictions/confidence"][:])
        wrong = np.flatnonzero((predicted >= 0) & (subject.label >= 0) & (predicted != subject.label))
        return wrong[np.argsort(-confidence[wrong], kind="stable")][: 2 * self.examples].tolist()

    def _count(self, subject: Subject, stored: Stored) -> Counted:
        predicted = np.asarray(stored["predictions/predicted"][:])
        confidence = np.asarray(stored["predictions/confidence"][:])
        position = np.flatnonzero((predicted >= 0) & (subject.label >= 0))
        label, answer = subject.label[position], predicted[position]
        matrix = confusion_matrix(label, answer, subject.n_class)
        pair, symmetric = confused_pairs(matrix, self.pairs), symmetric_pairs(matrix, self.pairs)
        surest = position[np.argsort(-confidence[position], kind="stable")]
        own, given = subject.label[surest], predicted[surest]

        def examples(pairs: np.ndarray, both: bool) -> tuple[tuple[int, ...], ...]:
            masks = (((own == a) & (given == b)) | (both & (own == b) & (given == a)) for a, b in pairs)
            return tuple(tuple(surest[mask][: self.examples].tolist()) for mask in masks)

        return Counted(
            class_names=subject.class_names,
            matrix=matrix,
            pair=pair,
            pair_count=matrix[pair[:, 0], pair[:, 1]],
            images=examples(pair, both=False),
            symmetric=symmetric,
            symmetric_count=matrix[symmetric[:, 0], symmetric[:, 1]] + matrix[symmetric[:, 1], symmetric[:, 0]],
            symmetric_images=examples(symmetric, both=True),
            calibration=calibration(confidence[position], label == answer, self.bins),
            n_unlabelled=int((subject.label < 0).sum()),
            n_bad=int((predicted < 0).sum()),
        )


def _filled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pad with -1 to `shape`; fewer pairs may be confused than are asked for."""
    full = np.full(shape, -1, values.dtype)
    full[: len(values)] = values
    return full
