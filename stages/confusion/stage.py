"""Which classes are mistaken for which, how sure each number is, and whether confidence can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, Measurement, SizedArray, Summary
from .calibration import calibration
from .classes import DOCUMENTS, class_measurements, per_class, top_rows
from .judgements import Counted, measurements, notes
from .matrix import confused_pairs, confusion_matrix, symmetric_pairs
from .mistakes import findings
from .ordering import clustered, densest
from .selective import COVERED, RISK, STEPS, Selective, selective, selective_measurements, selective_notes
from .slices import Slice, slice_findings, slice_measurements, slice_notes, slices, slices_missing
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
ORDER = ArraySpec(
    "order", ("place",), "int32", "class", "Classes in an order that puts confused ones side by side (average linkage)."
)
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
class _Found:
    """Everything that was counted; `wrong` are the images answered wrong, surest first."""

    counted: Counted
    trust: Trust
    curve: Selective
    slices: list[Slice]
    wrong: list[int]


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
        Images a label, or a slice, needs to count as the worst.
    block
        Classes of the part of the ordered matrix with most errors that the report shows, where there are many.
    slice_values
        Values of each slice column that are kept, worst first.
    """

    bins: int = 15
    other_bins: Sequence[int] = (10, 20)
    temperature_images: int = 20_000
    pairs: int = 10
    examples: int = 6
    min_support: int = 10
    slice_values: int = 200
    block: int = 24

    name: ClassVar[str] = "confusion"
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        *(MATRIX, ORDER, PAIR, PAIR_COUNT, SYMMETRIC, SYMMETRIC_COUNT, RANK_COUNT, CLASSWISE, COVERED, RISK),
        *DOCUMENTS,
    )

    def __post_init__(self) -> None:
        for key in ("bins", "pairs", "examples", "min_support", "temperature_images", "slice_values", "block"):
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
        curve = [spec.sized((STEPS,)) for spec in (COVERED, RISK)]
        return (
            MATRIX.sized((n, n)),
            ORDER.sized((n,)),
            *pairs,
            RANK_COUNT.sized((n,)),
            CLASSWISE.sized((n,)),
            *classes,
            *curve,
        )

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
            "order": clustered(counted.matrix),
            "pair": _filled(counted.pair, (self.pairs, 2)),
            "pair_count": _filled(counted.pair_count, (self.pairs,)),
            "symmetric": _filled(counted.symmetric, (self.pairs, 2)),
            "symmetric_count": _filled(counted.symmetric_count, (self.pairs,)),
        }
        if not counted.n:
            reason = "no image has both a label and a prediction"
            return Summary(arrays, notes={"status": "not applicable", "reason": reason})
        found = self._found(counted, subject, stored)
        arrays |= vars(per_class(counted.matrix)) | {"covered": found.curve.covered, "risk": found.curve.risk}
        scores = found.trust.scores
        arrays |= {"rank_count": scores.rank_count, "classwise_error": scores.classwise}
        block = {"start": densest(counted.matrix, arrays["order"], self.block), "size": self.block}
        return Summary(arrays, self._measured(found), self._told(found), self._noted(found) | {"block": block})

    def _found(self, counted: Counted, subject: Subject, stored: Stored) -> _Found:
        predicted = np.asarray(stored["predictions/predicted"][:])
        position = np.flatnonzero((predicted >= 0) & (subject.label >= 0))
        confidence = np.asarray(stored["predictions/confidence"][:])[position]
        bins = (self.bins, *(n for n in self.other_bins if n != self.bins))
        seen = Judged(position, subject.label[position], stored, subject)
        believed = trust(seen, confidence, bins, self.temperature_images)
        right = believed.scores.right
        wrong = np.flatnonzero(~right)
        return _Found(
            counted,
            believed,
            selective(confidence, right),
            slices(subject.slices, position, right, self.min_support),
            position[wrong[np.argsort(-confidence[wrong], kind="stable")]].tolist(),
        )

    def _measured(self, found: _Found) -> tuple[Measurement, ...]:
        return (
            *measurements(found.counted, self.min_support),
            *class_measurements(found.counted.matrix, found.trust.scores),
            *trust_measurements(found.trust),
            *selective_measurements(found.curve),
            *slice_measurements(found.slices, self.min_support),
        )

    def _told(self, found: _Found) -> tuple[Finding, ...]:
        told = findings(found.counted, self.min_support)
        if any(finding.severity == "error" for finding in told):
            # Wrong answers by the score explain wrong confidences, and weak slices.
            return told
        doubted = doubts(found.trust, found.wrong[: 2 * self.examples])
        return (*told, *doubted, *slice_findings(found.slices, self.min_support, found.wrong))

    def _noted(self, found: _Found) -> dict[str, Any]:
        told = notes(found.counted, self.min_support)
        return told | {
            "not_applicable": told["not_applicable"] | slices_missing(found.slices, self.min_support),
            "trust": trust_notes(found.trust, found.counted.calibration),
            "top": top_rows(found.trust.scores),
            "selective": selective_notes(found.curve),
            "slices": slice_notes(found.slices, self.min_support, self.slice_values),
        }

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
