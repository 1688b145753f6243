"""What the network says of every image, and how much of the data could be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..numerics.statistics import wilson
from ..specs import STATUS, ArraySpec, Finding, Measurement, SizedArray, Summary
from . import inputs, scores

if TYPE_CHECKING:
    from ..network.batch import Batch

LOGIT = ArraySpec("logit", ("image", "class"), "float32", "logit", "Output of the network before softmax.")
PREDICTED = ArraySpec(
    "predicted",
    ("image",),
    "int32",
    "class",
    "Class of the largest logit; the lowest of equal ones, -1 where a logit is not finite.",
)
CONFIDENCE = ArraySpec("confidence", ("image",), "float32", "1", "Softmax probability of the predicted class.")
MARGIN = ArraySpec("margin", ("image",), "float32", "logit", "Largest logit minus the second largest.")
CODES = ArraySpec(
    "status", ("image",), "int8", "code", f"What became of the image, as a position in {list(STATUS)}; -1: never read."
)
# What of a partial result is a list; everything else is a count.
_LISTS = ("bad_image", "bad_status", "bad_reason", "not_finite")


@dataclass(frozen=True)
class Predictions(SoleLeaf):
    """Logits, predicted classes and the state of every image."""

    name: ClassVar[str] = "predictions"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (LOGIT, PREDICTED, CONFIDENCE, MARGIN, CODES)
    #: Arrays whose rows also speak of images that could not be used.
    covers_invalid: ClassVar[frozenset[str]] = frozenset({"status"})

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per image in each array."""
        per_image = [spec.sized((subject.n_image,)) for spec in (PREDICTED, CONFIDENCE, MARGIN, CODES)]
        return (LOGIT.sized((subject.n_image, subject.n_class)), *per_image)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Score one batch and count what the summary needs."""
        del task, subject
        logit = batch.logits.detach().cpu().numpy().astype(np.float32)
        rows = {
            "logit": logit,
            "predicted": scores.predicted_class(logit),
            "confidence": scores.confidence(logit).astype(np.float32),
            "margin": scores.margin(logit).astype(np.float32),
            "status": np.asarray(batch.status, np.int8),
        }
        return Result(rows, _count(batch, rows))

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Add the counts and chain the lists."""
        return {
            key: np.concatenate([first[key], second[key]]) if key in _LISTS else first[key] + second[key]
            for key in first
        }

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Accuracy, confidence and the share of images that could not be used."""
        del stored
        total = dict(partials[0])
        for partial in partials[1:]:
            total = dict(self.combine(total, partial))
        measurements = (_accuracy(total), _mean_confidence(total), _bad_fraction(total), *inputs.measurements(total))
        found = (*_findings(total, subject), *inputs.findings(total, subject.mean, subject.std))
        return Summary({}, measurements, found, {"bad": _bad(total, subject)})


def _count(batch: Batch, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Counts of one batch, and the positions of the images that are not as they should be."""
    valid, label = np.asarray(batch.valid, bool), np.asarray(batch.labels)
    positions, bad = np.asarray(batch.positions, np.int64), ~np.asarray(batch.valid, bool)
    finite = valid & (rows["predicted"] >= 0)
    labelled = valid & (label >= 0)
    return {
        "image": np.asarray(len(valid), np.int64),
        "labelled": np.asarray(labelled.sum(), np.int64),
        "correct": np.asarray((labelled & (rows["predicted"] == label)).sum(), np.int64),
        "finite": np.asarray(finite.sum(), np.int64),
        "confidence": np.asarray(rows["confidence"][finite].sum(dtype=np.float64)),
        "bad_image": positions[bad],
        "bad_status": np.asarray(batch.status, np.int8)[bad],
        "bad_reason": np.asarray([batch.reasons[at] for at in np.flatnonzero(bad)], dtype=np.str_),
        "not_finite": positions[valid & ~finite],
        **inputs.count(batch.images[torch.from_numpy(valid).to(batch.images.device)]),
    }


def _accuracy(total: Mapping[str, np.ndarray]) -> Measurement:
    correct, n = int(total["correct"]), int(total["labelled"])
    low, high = wilson(correct, n) if n else (None, None)
    return Measurement(
        "predictions/accuracy",
        correct / n if n else math.nan,
        "1",
        "higher",
        n,
        "predictions/predicted",
        "Share of usable, labelled images whose largest logit is their label's; an image with a logit that is not "
        "finite counts as wrong. Bounds: Wilson, 95 %.",
        low,
        high,
    )


def _mean_confidence(total: Mapping[str, np.ndarray]) -> Measurement:
    n = int(total["finite"])
    return Measurement(
        "predictions/mean_confidence",
        float(total["confidence"]) / n if n else math.nan,
        "1",
        "neither",
        n,
        "predictions/confidence",
        "Mean softmax probability of the predicted class over usable images with finite logits.",
    )


def _bad_fraction(total: Mapping[str, np.ndarray]) -> Measurement:
    bad, n = len(total["bad_image"]), int(total["image"])
    low, high = wilson(bad, n) if n else (None, None)
    return Measurement(
        "predictions/bad_fraction",
        bad / n if n else math.nan,
        "1",
        "lower",
        n,
        "predictions/status",
        "Share of all images that could not be used. Bounds: Wilson, 95 %.",
        low,
        high,
    )


def _bad(total: Mapping[str, np.ndarray], subject: Subject) -> list[dict[str, Any]]:
    """One record per image that could not be used, in data set order."""
    records = [
        {"image": int(image), "id": subject.image_id[int(image)], "status": STATUS[int(code)], "reason": str(reason)}
        for image, code, reason in zip(total["bad_image"], total["bad_status"], total["bad_reason"], strict=True)
    ]
    return sorted(records, key=lambda record: record["image"])


def _findings(total: Mapping[str, np.ndarray], subject: Subject) -> list[Finding]:
    findings = []
    if len(total["not_finite"]):
        count, n = len(total["not_finite"]), int(total["image"]) - len(total["bad_image"])
        findings.append(
            Finding(
                "predictions/logit-not-finite",
                "error",
                f"{count} of {n} usable images have logits that are not finite",
                "Expected finite numbers; the model overflows or its weights hold NaN. They count as wrong. "
                "Look at the first of these images and at the layer statistics.",
                tuple(sorted(map(int, total["not_finite"]))),
            )
        )
    findings += [_bad_finding(code, total, subject) for code in sorted(set(map(int, total["bad_status"])))]
    if not int(total["labelled"]):
        findings.append(
            Finding(
                "predictions/unlabelled",
                "info",
                "No usable image has a label",
                "Accuracy could not be measured; everything that needs no label was. What next: set gates=unlabelled, "
                "which judges what can be judged without.",
            )
        )
    return findings


def _bad_finding(code: int, total: Mapping[str, np.ndarray], subject: Subject) -> Finding:
    images = sorted(int(image) for image in total["bad_image"][total["bad_status"] == code])
    shown = ", ".join(subject.image_id[image] for image in images[:5]) + (", ..." if len(images) > 5 else "")
    return Finding(
        f"predictions/bad-image-{STATUS[code].replace('_', '-')}",
        "warning",
        f"{len(images)} of {int(total['image'])} images could not be used: {STATUS[code].replace('_', ' ')}",
        f"Left out of every statistic: {shown}. The reason of each stands in this stage's notes; mend or remove them.",
        tuple(images),
    )
