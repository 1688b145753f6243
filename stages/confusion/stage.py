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
from .judgements import Counted, measurements, notes
from .matrix import confused_pairs, confusion_matrix
from .mistakes import findings

MATRIX = ArraySpec(
    "matrix", ("label", "prediction"), "int64", "images", "Images by true label and predicted class; bad ones left out."
)
PAIR = ArraySpec(
    "pair", ("pair", "side"), "int32", "1", "Most confused directed pairs (label, prediction), by falling count."
)
PAIR_COUNT = ArraySpec("pair_count", ("pair",), "int64", "images", "Images of each pair.")


@dataclass(frozen=True)
class Confusion(SoleLeaf):
    """Confusion matrix, recall and precision per class, the most confused pairs, and calibration.

    Parameters
    ----------
    bins
        Bins of the calibration error.
    pairs
        How many of the most confused pairs are kept.
    examples
        Images shown per pair.
    min_support
        Images a label needs for its recall to count as the worst.
    """

    bins: int = 15
    pairs: int = 10
    examples: int = 6
    min_support: int = 10

    name: ClassVar[str] = "confusion"
    documents: ClassVar[tuple[ArraySpec, ...]] = (MATRIX, PAIR, PAIR_COUNT)

    def __post_init__(self) -> None:
        for key in ("bins", "pairs", "examples", "min_support"):
            if getattr(self, key) < 1:
                raise ConfigError(f"confusion.{key}: expected 1 or more, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What the network answered."""
        return ("predictions",)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """The matrix and the pairs."""
        n = subject.n_class
        return (MATRIX.sized((n, n)), PAIR.sized((self.pairs, 2)), PAIR_COUNT.sized((self.pairs,)))

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
        }
        if not counted.n:
            reason = "no image has both a label and a prediction"
            return Summary(arrays, notes={"status": "not applicable", "reason": reason})
        return Summary(
            arrays,
            measurements(counted, self.min_support),
            findings(counted, self.min_support),
            notes(counted, self.min_support),
        )

    def _count(self, subject: Subject, stored: Stored) -> Counted:
        predicted = np.asarray(stored["predictions/predicted"][:])
        confidence = np.asarray(stored["predictions/confidence"][:])
        position = np.flatnonzero((predicted >= 0) & (subject.label >= 0))
        label, answer = subject.label[position], predicted[position]
        matrix = confusion_matrix(label, answer, subject.n_class)
        pair = confused_pairs(matrix, self.pairs)
        by_confidence = position[np.argsort(-confidence[position], kind="stable")]
        images = tuple(
            tuple(
                by_confidence[(subject.label[by_confidence] == wanted) & (predicted[by_confidence] == given)].tolist()
            )
            for wanted, given in pair
        )
        return Counted(
            class_names=subject.class_names,
            matrix=matrix,
            pair=pair,
            pair_count=matrix[pair[:, 0], pair[:, 1]],
            images=tuple(shown[: self.examples] for shown in images),
            calibration=calibration(confidence[position], label == answer, self.bins),
            n_unlabelled=int((subject.label < 0).sum()),
            n_bad=int((predicted < 0).sum()),
        )


def _filled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pad with -1 to `shape`; fewer pairs may be confused than are asked for."""
    full = np.full(shape, -1, values.dtype)
    full[: len(values)] = values
    return full
