"""Whether confidences can be believed, and what would mend them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..contract import Stored, Subject
from ..numerics.seeds import numpy_generator
from ..specs import Finding, Measurement
from .calibration import Calibration, by_chance, calibration
from .probabilities import Scores, scores
from .temperature import HIGHEST, LOWEST, temperature

_BLOCK = 4096
_EDGES = "bins of equal width; a bin holds its lower border, the last one 1.0 too"
# A smaller error misleads nobody, however many images prove it.
_ERROR = 0.05


@dataclass(frozen=True)
class Mended:
    """Scores once each half of the images was divided by the temperature that suits the other half.

    Parameters
    ----------
    value
        Temperature that suits all of them; None where none does.
    halves
        Those of the two halves.
    n
        Images that they were fitted on.
    error, nll
        Calibration error and negative log-likelihood afterwards; NaN where a half has no temperature.
    """

    value: float | None
    halves: tuple[float | None, float | None]
    n: int
    error: float = math.nan
    nll: float = math.nan


@dataclass(frozen=True)
class Trust:
    """What was found of the probabilities.

    Parameters
    ----------
    scores
        Over all images that have a label and a prediction.
    errors
        Calibration error by number of bins.
    bins
        The number of bins that counts.
    chance, chance_high
        Error that a perfectly calibrated network would show on as many images, on average and at most in 95 % of cases.
    mended
        What a temperature would do.
    """

    scores: Scores
    errors: dict[int, float]
    bins: int
    chance: float
    chance_high: float
    mended: Mended


@dataclass(frozen=True)
class Judged:
    """The images that have a label and a prediction, and where their logits are."""

    position: Int[np.ndarray, " image"]
    label: Int[np.ndarray, " image"]
    stored: Stored
    subject: Subject

    def blocks(
        self, divisor: Float[np.ndarray, " image"] | None = None
    ) -> Iterator[tuple[Float[np.ndarray, "block class"], Int[np.ndarray, " block"]]]:
        """Logits, divided where asked, and labels of some images at a time."""
        logit = self.stored["predictions/logit"]
        for start in range(0, self.subject.n_image, _BLOCK):
            a, b = np.searchsorted(self.position, (start, start + _BLOCK))
            if a == b:
                continue
            rows = np.asarray(logit[start : start + _BLOCK])[self.position[a:b] - start]
            yield rows if divisor is None else rows.astype(np.float64) / divisor[a:b, None], self.label[a:b]


def trust(judged: Judged, confidence: Float[np.ndarray, " image"], bins: Sequence[int], most: int) -> Trust:
    """Measure calibration, scores and the best temperature.

    Parameters
    ----------
    judged
        At least one image.
    confidence
        Softmax of the predicted class of those images.
    bins
        Numbers of bins, the one that counts first.
    most
        Temperatures are fitted on at most so many images.
    """
    found = scores(judged.blocks(), judged.subject.n_class, bins[0])
    rng = numpy_generator(judged.subject.seed, "confusion", "calibration")
    mean, high = by_chance(confidence, bins[0], rng)
    errors = {n: calibration(confidence, found.right, n).error for n in bins}
    return Trust(found, errors, bins[0], mean, high, _mended(judged, found.right, bins[0], most))


def _mended(judged: Judged, right: Bool[np.ndarray, " image"], bins: int, most: int) -> Mended:
    n = len(judged.position)
    order = numpy_generator(judged.subject.seed, "confusion", "temperature").permutation(n)
    first = np.zeros(n, bool)
    first[order[: n // 2]] = True
    chosen = np.sort(order[max(0, n // 2 - most // 2) : n // 2 + most - most // 2])
    logit, label = _gathered(judged, chosen), judged.label[chosen]
    value, *halves = (
        temperature(logit[part], label[part]) if part.any() else None
        for part in (np.ones(len(chosen), bool), first[chosen], ~first[chosen])
    )
    if halves[0] is None or halves[1] is None:
        return Mended(value, (halves[0], halves[1]), len(chosen))
    after = scores(judged.blocks(np.where(first, halves[1], halves[0])), judged.subject.n_class, bins)
    error = calibration(np.minimum(after.confidence, 1.0), right, bins).error
    return Mended(value, (halves[0], halves[1]), len(chosen), error, after.nll)


def _gathered(judged: Judged, chosen: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen class"]:
    found, done = [], 0
    for rows, _ in judged.blocks():
        a, b = np.searchsorted(chosen, (done, done + len(rows)))
        found.append(rows[chosen[a:b] - done])
        done += len(rows)
    return np.concatenate(found)


def measurements(found: Trust) -> tuple[Measurement, ...]:
    """Calibration error with other numbers of bins and per class, proper scores, and the temperature."""
    return (*_errors(found), *_proper(found.scores), *_temperatures(found))


def _errors(found: Trust) -> tuple[Measurement, ...]:
    n, classwise = len(found.scores.right), float(found.scores.classwise.mean())
    others = (
        Measurement(
            f"confusion/ece_{bins}", error, "1", "lower", n, "predictions/confidence",
            f"Expected calibration error with {bins} {_EDGES}.",
        )
        for bins, error in found.errors.items()
        if bins != found.bins
    )  # fmt: skip
    told = (
        "Mean over classes of the calibration error of that class's probability over all images, "
        f"{found.bins} {_EDGES}."
    )
    return (*others, Measurement("confusion/classwise_ece", classwise, "1", "lower", n, "predictions/logit", told))


def _proper(scored: Scores) -> tuple[Measurement, ...]:
    n, path = len(scored.right), "predictions/logit"
    likelihood = "Mean negative natural logarithm of the label's probability."
    squares = "Mean over images of the sum over classes of (probability - [is the label])^2; 0 to 2."
    return (
        Measurement("confusion/nll", scored.nll, "nat", "lower", n, path, likelihood),
        Measurement("confusion/brier", scored.brier, "1", "lower", n, path, squares),
    )


def _temperatures(found: Trust) -> tuple[Measurement, ...]:
    """The divisor, and what is left of error and likelihood once it is applied."""
    n, path, mended = len(found.scores.right), "predictions/logit", found.mended
    value = math.nan if mended.value is None else mended.value
    sought = (
        f"Divisor of the logits that makes the labels likeliest, sought in {LOWEST} to {HIGHEST:g}; fitted on "
        f"{mended.n} of the audited images themselves."
    )
    halves = "each half of the images divided by the temperature fitted on the other half"
    error, likelihood = f"Calibration error, {found.bins} {_EDGES}; {halves}.", f"Negative log-likelihood; {halves}."
    return (
        Measurement("confusion/temperature", value, "1", "neither", n, path, sought),
        Measurement("confusion/ece_scaled", mended.error, "1", "lower", n, path, error),
        Measurement("confusion/nll_scaled", mended.nll, "nat", "lower", n, path, likelihood),
    )


def notes(found: Trust, counted: Calibration) -> dict[str, Any]:
    """The same for the report, with the definitions; null is unknown."""
    mended = found.mended
    return {
        "error": counted.error,
        "errors": {str(bins): error for bins, error in sorted(found.errors.items())},
        "bins": found.bins,
        "edges": _EDGES,
        "chance": found.chance,
        "chance_high": found.chance_high,
        "classwise": float(found.scores.classwise.mean()),
        "nll": found.scores.nll,
        "brier": found.scores.brier,
        "temperature": {
            "value": mended.value,
            "halves": list(mended.halves),
            "images": mended.n,
            "between": [LOWEST, HIGHEST],
            "error": None if math.isnan(mended.error) else mended.error,
            "nll": None if math.isnan(mended.nll) else mended.nll,
        },
    }


def findings(found: Trust, sure_and_wrong: Sequence[int]) -> tuple[Finding, ...]:
    """Confidences that mislead: an error that is large and beyond what chance explains."""
    error, right = found.errors[found.bins], found.scores.right
    if not (error > _ERROR and error > found.chance_high):
        return ()
    gap = float(found.scores.confidence.mean() - right.mean())
    word = "sure" if gap > 0 else "modest"
    mended = found.mended
    if mended.value is None or math.isnan(mended.error):
        remedy = "No one temperature would mend it."
    else:
        remedy = (
            f"Dividing the logits by {mended.value:.3g} would bring the error to {mended.error:.3f} (cross-fitted "
            "halves of these images). What next: fit a temperature on data set aside, and divide by it in use."
        )
    return (
        Finding(
            "confusion/miscalibrated",
            "warning",
            f"The network is too {word}: its confidence is {error:.1%} off on average",
            f"Mean confidence {found.scores.confidence.mean():.1%}, accuracy {right.mean():.1%} on {len(right)} "
            f"images; error over {found.bins} bins {error:.3f}, where a calibrated network would show "
            f"{found.chance:.3f}, and at most {found.chance_high:.3f} in 95 % of cases. {remedy}",
            tuple(int(image) for image in sure_and_wrong),
        ),
    )
