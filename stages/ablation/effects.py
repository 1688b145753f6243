"""What switching channels off does to the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import StageError
from ..specs import Finding, Measurement
from .candidates import Case, Choice

# Logits this close may change places by rounding, as the images of a batch differ between the two runs.
_CLOSE = 1e-3


@dataclass(frozen=True)
class Effect:
    """Answers without some channels against answers with them, on the same images.

    Parameters
    ----------
    case
        What was off.
    n, labelled
        Images, and those of them with a label.
    accuracy, change
        Accuracy without the channels, and by how much it differs from that with them; NaN without labels.
    flipped
        Images whose predicted class is another.
    images
        Positions of the flipped images.
    decided
        Those of them whose two largest logits were not close, so that rounding cannot have flipped them.
    """

    case: Case
    n: int
    labelled: int
    accuracy: float
    change: float
    flipped: int
    images: tuple[int, ...]
    decided: tuple[int, ...]


def effect_of(
    case: Case,
    answers: Mapping[str, np.ndarray],
    images: Int[np.ndarray, " image"],
    whole: Int[np.ndarray, " all"],
    label: Int[np.ndarray, " all"],
    margin: Float[np.ndarray, " all"],
) -> Effect:
    """Hold one case against the whole network.

    Parameters
    ----------
    case
        What was off.
    answers
        ``row``, ``position`` and ``predicted`` of every run.
    images
        Positions of the images that had to be run, those with a prediction.
    whole
        Predicted class of every image by the whole network.
    label
        Class of every image; -1 for none.
    margin
        Largest logit minus the second largest, of every image by the whole network.

    Raises
    ------
    StageError
        When a run did not see exactly these images.
    """
    answered = whole[images]
    if not case.by_evidence:
        own = answers["row"] == case.row
        given = np.full(len(whole), -2, np.int64)
        given[answers["position"][own]] = answers["predicted"][own]
        answered = given[images]
        if (answered == -2).any():
            raise StageError(f"ablation: {int((answered == -2).sum())} of {len(images)} images are missing from a run")
    known = label[images] >= 0
    right, before = (guess[known] == label[images][known] for guess in (answered, whole[images]))
    other = answered != whole[images]
    return Effect(
        case=case,
        n=len(images),
        labelled=int(known.sum()),
        accuracy=float(right.mean()) if known.any() else math.nan,
        change=float((right.sum() - before.sum()) / known.sum()) if known.any() else math.nan,
        flipped=int(other.sum()),
        images=tuple(images[other].tolist()),
        decided=tuple(images[other & (margin[images] > _CLOSE)].tolist()),
    )


def measurements(effects: Sequence[Effect]) -> tuple[Measurement, ...]:
    """The largest share of answers that some case flips, and the lowest change of accuracy; none where nothing ran."""
    if not effects:
        return ()
    n = effects[0].n
    flipped = max(effect.flipped for effect in effects) / n if n else math.nan
    share = Measurement(
        "ablation/flipped_fraction",
        flipped,
        "1",
        "neither",
        n,
        "ablation/flipped",
        "Largest share of predicted classes that change when a flagged channel, or all idle ones of a layer, are "
        "switched off.",
    )
    if not effects[0].labelled:
        return (share,)
    lowest = min(effect.change for effect in effects)
    told = "Lowest change of accuracy when a flagged channel, or all idle ones of a layer, are switched off."
    return (
        share,
        Measurement("ablation/worst_change", lowest, "1", "higher", effects[0].labelled, "ablation/change", told),
    )


def findings(effects: Sequence[Effect]) -> tuple[Finding, ...]:
    """Runs that contradict the evidence, one by one, and flagged channels that matter, together."""
    found = [_contradiction(effect) for effect in effects if effect.case.silent and effect.decided]
    telling = [effect for effect in effects if effect.flipped and not effect.case.silent]
    return (*found, _matters(sorted(telling, key=lambda effect: -effect.flipped))) if telling else tuple(found)


def _contradiction(effect: Effect) -> Finding:
    case = effect.case
    return Finding(
        "ablation/contradiction",
        "error",
        f"Switching off silent channels of {case.layer} flips {len(effect.decided)} of {effect.n} answers",
        "These channels never fire, so nothing may change, but answers that were not close changed: two runs differ, "
        "and no number here is safe. What next: look for randomness in the forward pass.",
        effect.decided[:12],
        case.layer,
        case.channels,
    )


def _matters(telling: Sequence[Effect], limit: int = 4) -> Finding:
    """What is flagged but not idle, most changed answers first."""
    worst = telling[0]
    shown = "; ".join(
        f"without {_what(effect)}, {effect.flipped} of {effect.n} answers change (accuracy {_percent(effect.change)} "
        "points)"
        for effect in telling[:limit]
    )
    more = f"; and {len(telling) - limit} more in the table" if len(telling) > limit else ""
    alone = len(telling) == 1
    return Finding(
        "ablation/matters",
        "info",
        f"Without {_what(worst)}, {worst.flipped} of {worst.n} answers change"
        + ("" if alone else f", and {len(telling) - 1} more of what is flagged matters"),
        f"Flagged, but not for nothing there: {shown}{more}. What next: look at the images before such channels are "
        "pruned.",
        worst.images[:12],
        worst.case.layer if alone else None,
        worst.case.channels if alone else (),
    )


def _what(effect: Effect) -> str:
    case = effect.case
    kinds = " or ".join(kind.replace("_", " ") for kind in case.troubles)
    if case.joint:
        return f"the {len(case.channels)} idle channels of {case.layer}"
    return f"channel {case.channels[0]} of {case.layer}" + (f" ({kinds})" if kinds else "")


def notes(choice: Choice, effects: Sequence[Effect], n: int, asked: int, n_image: int) -> dict[str, Any]:
    """Each case in words, and what the caps left out."""
    singles = sum(not case.joint for case in choice.cases)
    joint = len(choice.cases) - singles
    return {
        "status": "measured" if effects else "nothing flagged" if not choice.flagged_channels else "capped to nothing",
        "layers": list(choice.layers),
        "n": n,
        "sampled": f"{asked} of {n_image} images, evenly spaced" if asked < n_image else "",
        "left_out": {"channels": choice.flagged_channels - singles, "layers": choice.flagged_layers - joint},
        "cases": [_row(effect) for effect in effects],
        "definition": "A channel is off when its layer's output is set to zero there. Behind a ReLU, one that never "
        "fires is zero already: by itself it changes nothing, without a run.",
    }


def _row(effect: Effect) -> dict[str, Any]:
    case = effect.case
    return {
        "row": case.row,
        "layer": case.layer,
        "channels": list(case.channels),
        "joint": case.joint,
        "troubles": list(case.troubles),
        "how": "evidence" if case.by_evidence else "run",
        "accuracy": None if math.isnan(effect.accuracy) else effect.accuracy,
        "change": None if math.isnan(effect.change) else effect.change,
        "flipped": effect.flipped,
        "n": effect.n,
    }


def _percent(change: float) -> str:
    return "an unknown number of" if math.isnan(change) else f"{100 * change:+.2f}"
