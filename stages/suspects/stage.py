"""Labels that may be wrong, by two signals: what the head makes of each image, and what its neighbors are labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, SizedArray, Summary
from .confident import counted, estimated_errors, own_probability, softmax, thresholds
from .evidence import Seen
from .findings import findings
from .judgements import measurements, notes
from .ranking import BOTH, SIGNALS

SELF_CONFIDENCE = ArraySpec(
    "self_confidence", ("image",), "float64", "1", "Softmax probability of the label; NaN without label or answer."
)
DISAGREEMENT = ArraySpec(
    "disagreement", ("image",), "float64", "1", "Share of the labelled nearest neighbors that bear another label."
)
SIGNAL = ArraySpec(
    "signal",
    ("image",),
    "int8",
    "code",
    f"What speaks against the label, as a position in {list(SIGNALS)}; both: a suspect; -1: not judged.",
)
SCORE = ArraySpec(
    "score",
    ("image",),
    "float64",
    "1",
    "Mean of the shares of judged images with larger self-confidence and with smaller disagreement, equal ones half.",
)
RANK = ArraySpec(
    "rank", ("image",), "int64", "1", "From 1: two signals against the label, then one, then none, by falling score."
)
PROPOSAL = ArraySpec(
    "proposal", ("image",), "int32", "class", "Class that head and neighbors both give to a suspect; -1: they differ."
)
THRESHOLD = ArraySpec(
    "threshold",
    ("class",),
    "float64",
    "1",
    "Mean self-confidence of the images of each label, from which on a class is confident; NaN: no label names it.",
)
COUNT = ArraySpec("class_count", ("class",), "int64", "images", "Suspects by label.")
JOINT = ArraySpec(
    "joint", ("label", "truth"), "int64", "images", "Images by label and the class that they are confidently in."
)

#: Up to so many classes the joint is stored.
MOST = 1000
_ROWS = 8192
_PER_IMAGE = (SELF_CONFIDENCE, DISAGREEMENT, SIGNAL, SCORE, RANK, PROPOSAL)


@dataclass(frozen=True)
class Suspects(SoleLeaf):
    """Ranks labels by how strongly head and neighbors speak against them.

    Parameters
    ----------
    min_support
        Images that a label needs to be named as the worst, or as one that stands for another class.
    slice_values
        Values of each slice column that are kept, those with most suspects first.
    examples
        Images named in a finding.
    """

    min_support: int = 10
    slice_values: int = 50
    examples: int = 24

    name: ClassVar[str] = "suspects"
    documents: ClassVar[tuple[ArraySpec, ...]] = (*_PER_IMAGE, THRESHOLD, COUNT, JOINT)

    def __post_init__(self) -> None:
        for key in ("min_support", "slice_values", "examples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"suspects.{key}: expected 1 or more, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What the head answered, and who the neighbors are."""
        return ("predictions", "neighbors")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per image, one per class, and the joint unless there are too many classes."""
        n = subject.n_class
        joint = (JOINT.sized((n, n)),) if n <= MOST else ()
        per_image = [spec.sized((subject.n_image,)) for spec in _PER_IMAGE]
        return (*per_image, THRESHOLD.sized((n,)), COUNT.sized((n,)), *joint)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One shard each."""
        del stored
        return [Task(self.name, start=some.start, argument={"last": some.stop}) for some in subject.shards()]

    def compute(self, task: Task, subject: Subject, stored: Stored) -> Result:
        """Both signals of one shard, each by itself."""
        first, last = task.start, task.argument["last"]
        label = subject.label[first:last]
        p = softmax(np.asarray(stored["predictions/logit"][first:last]))
        agreed = np.asarray(stored["neighbors/agreement"][first:last])
        return Result({"self_confidence": own_probability(p, label), "disagreement": 1 - agreed.astype(np.float64)})

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Hold the probabilities against their thresholds, and the two signals against each other."""
        del partials
        own = np.asarray(stored["suspects/self_confidence"][:])
        threshold = thresholds(own, subject.label, subject.n_class)
        seen = self._seen(subject, stored, own, threshold)
        arrays = self._arrays(seen, np.where(threshold <= 1, threshold, np.nan))
        if seen.n_label < 2 or not seen.n:
            return self._nothing(seen, arrays)
        told = notes(seen, self.min_support, self.slice_values) | {"joint_stored": subject.n_class <= MOST}
        found = findings(seen, self.min_support, self.examples)
        return Summary(arrays, measurements(seen), found, told)

    def _seen(self, subject: Subject, stored: Stored, own: np.ndarray, threshold: np.ndarray) -> Seen:
        doubted, joint = np.zeros(subject.n_image, bool), np.zeros((subject.n_class,) * 2, np.int64)
        asked = np.isfinite(own)
        labels = subject.label[asked]
        # A single label cannot be held against another.
        for images, p in _blocks(stored, asked) if len(np.unique(labels)) > 1 else ():
            counts, against = counted(p, subject.label[images], threshold)
            joint += counts
            doubted[images] = against
        return Seen(
            subject=subject,
            usable=np.asarray(stored["predictions/status"][:]) == 0,
            predicted=np.asarray(stored["predictions/predicted"][:]),
            voted=np.asarray(stored["neighbors/predicted"][:]),
            self_confidence=own,
            disagreement=np.asarray(stored["suspects/disagreement"][:]),
            doubted=doubted,
            joint=joint,
            estimate=estimated_errors(joint, labels) if joint.any() else 0,
        )

    def _arrays(self, seen: Seen, threshold: np.ndarray) -> dict[str, Any]:
        score, rank = seen.order
        held = np.bincount(seen.label[seen.code == BOTH], minlength=seen.subject.n_class)
        arrays = {
            "signal": seen.code,
            "score": score,
            "rank": rank,
            "proposal": seen.proposal,
            "threshold": threshold,
            "class_count": held.astype(np.int64),
        }
        return arrays | ({"joint": seen.joint} if seen.subject.n_class <= MOST else {})

    def _nothing(self, seen: Seen, arrays: dict[str, Any]) -> Summary:
        reason = (
            f"the labels that can be judged name {seen.n_label} class{'es' * (seen.n_label != 1)}; it takes two"
            if seen.n_label < 2
            else "no image has a label, a finite answer and a labelled neighbor"
        )
        finding = Finding(
            "suspects/not-judged",
            "info",
            "No label could be held against another",
            f"Of {seen.subject.n_image} images, {int(seen.scored.sum())} have a label and a finite answer, and "
            f"{seen.n} of them a labelled neighbor: {reason}. What next: look at the labels of the data, and at what "
            "the stages predictions and neighbors say.",
        )
        return Summary(arrays, findings=(finding,), notes={"status": "not applicable", "reason": reason})


def _blocks(stored: Stored, asked: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions and probabilities of the images that are asked for, some at a time."""
    for start in range(0, len(asked), _ROWS):
        images = start + np.flatnonzero(asked[start : start + _ROWS])
        if len(images):
            yield images, softmax(np.asarray(stored["predictions/logit"][start : start + _ROWS])[images - start])
