"""How many errors remain when only the surest answers are taken (geifman2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.statistics import wilson
from ..specs import ArraySpec, Measurement

STEPS = 100
COVERED = ArraySpec(
    "covered",
    ("step",),
    "int64",
    "images",
    "Images answered when at least 1 %, 2 %, ... 100 % of them are, surest first.",
)
RISK = ArraySpec("risk", ("step",), "float64", "1", "Share of wrong answers among those covered.")


@dataclass(frozen=True)
class Selective:
    """Errors that remain, by how many images are answered.

    Parameters
    ----------
    covered, wrong
        Images answered when at least 1 %, 2 %, ... of them are, and those of them that are wrong. Shape ``(step,)``.
    threshold
        Confidence from which on they are answered.
    area
        Mean over images of the share of wrong answers among those at least as sure; in [0, 1].
    excess
        How far that lies above the least that is possible with as many wrong answers.
    """

    covered: Int[np.ndarray, " step"]
    wrong: Int[np.ndarray, " step"]
    threshold: Float[np.ndarray, " step"]
    area: float
    excess: float

    @property
    def risk(self) -> Float[np.ndarray, " step"]:
        """Share of wrong answers among those covered."""
        return self.wrong / self.covered


def selective(confidence: Float[np.ndarray, " image"], right: Bool[np.ndarray, " image"]) -> Selective:
    """Answer the surest images first and count the errors.

    Parameters
    ----------
    confidence
        Softmax of the predicted class; at least one image.
    right
        Whether the prediction equals the label.

    Notes
    -----
    The area under the risk-coverage curve, and its excess, of geifman2019. Images of equal confidence are answered
    together, so that their order does not matter. The least area is the exact sum, where the paper has its limit for
    many images.
    """
    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    sure, mistakes = confidence[order], np.cumsum(~right[order])
    last = np.searchsorted(-sure, -sure, side="right") - 1
    wanted = last[np.ceil(np.arange(1, STEPS + 1) * n / STEPS - 1e-9).astype(np.int64) - 1]
    area = float((mistakes[last] / (last + 1)).mean())
    count = np.arange(1, n + 1)
    least = float((np.maximum(0, count - (n - mistakes[-1])) / count).mean())
    return Selective(wanted + 1, mistakes[wanted], sure[wanted].astype(np.float64), area, area - least)


def selective_measurements(found: Selective) -> tuple[Measurement, ...]:
    """Area under the risk-coverage curve, and its excess."""
    n = int(found.covered[-1])
    rest = ("1", "lower", n, "predictions/confidence")
    meaning = "Mean over images of the share of wrong answers among the images at least as sure."
    above = f"{meaning} Less the smallest value that is possible with as many wrong answers."
    return (
        Measurement("confusion/aurc", found.area, *rest, meaning),
        Measurement("confusion/excess_aurc", found.excess, *rest, above),
    )


def selective_notes(found: Selective) -> dict[str, Any]:
    """The curve for the report, one row per step."""
    return {
        "area": found.area,
        "excess": found.excess,
        "steps": [
            {
                "covered": int(covered),
                "wrong": int(wrong),
                "threshold": float(threshold),
                "bounds": list(wilson(int(wrong), int(covered))),
                "least": max(0, int(covered) - int(found.covered[-1] - found.wrong[-1])) / int(covered),
            }
            for covered, wrong, threshold in zip(found.covered, found.wrong, found.threshold, strict=True)
            if not math.isnan(threshold)
        ],
    }
