"""Numbers and notes of label suspects."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.statistics import wilson
from ..specs import Measurement
from .evidence import Seen
from .findings import DOUBT, PRECISION, class_counts, unjudged
from .ranking import BOTH, HEAD, NEIGHBORS, SIGNALS

DEFINITIONS = {
    "head": "the head speaks against a label where confident learning counts the image under another class "
    "(northcutt2021, eq. 1, as cleanlab counts: a class is confident from the mean probability that the images so "
    "labelled give it) and the label is less probable than another class",
    "neighbors": "the neighbors speak against a label where the vote of the nearest labelled ones is another class",
    "suspect": "both speak against the label",
    "score": "mean of two shares: that of judged images whose label the head gives a larger probability, and that of "
    "those with a smaller share of neighbors of another label; equal ones count half",
    "rank": "images with two signals against their label, then one, then none; each by falling score, ties by position",
    "independence": "both signals rest on the same network: the head reads the features that the neighbors are found "
    "in, so they share what the network does not see. What differs is the evidence: weights learnt in training against "
    "the labels of other audited images",
}


def measurements(seen: Seen) -> tuple[Measurement, ...]:
    """Suspects, labels with one signal against them, and what confident learning estimates."""

    def told(name: str, value: int, n: int, meaning: str) -> Measurement:
        return Measurement(f"suspects/{name}", float(value), "images", "lower", n, "suspects/signal", meaning)

    return (
        told(
            "count",
            seen.count(BOTH),
            seen.n,
            "Labels that confident learning and the vote of the neighbors both speak against (see the definitions).",
        ),
        _share(seen),
        told("head_only", seen.count(HEAD), seen.n, "Labels that the head alone speaks against."),
        told("neighbors_only", seen.count(NEIGHBORS), seen.n, "Labels that the vote alone speaks against."),
        told(
            "estimated",
            seen.estimate,
            int(seen.scored.sum()),
            "Labels that are wrong by the calibrated joint of confident learning (northcutt2021, eq. 3), which holds "
            "errors of the model for errors of labels.",
        ),
    )


def _share(seen: Seen) -> Measurement:
    found = seen.count(BOTH)
    low, high = wilson(found, seen.n)
    meaning = "Share of judged labels that are suspects. Bounds: Wilson, 95 %."
    value = found / seen.n
    return Measurement("suspects/share", value, "1", "lower", seen.n, "suspects/signal", meaning, low, high)


def notes(seen: Seen, min_support: int, slice_values: int) -> dict[str, Any]:
    """Rows per class and slice, definitions, and what limits the list."""
    return {
        "status": "measured",
        "n": seen.n,
        "signals": {name: seen.count(code) for code, name in enumerate(SIGNALS)},
        "unjudged": unjudged(seen),
        "classes": _classes(seen),
        "moved": [
            {"label": one.label, "answer": one.answer, "count": len(one.images), "n": one.n, "absent": one.absent}
            for one in seen.moved(min_support)
        ],
        "slices": _slices(seen, slice_values),
        "definitions": DEFINITIONS,
        "limits": _limits(seen),
    }


def _limits(seen: Seen) -> dict[str, Any]:
    """What else than wrong labels may explain the list."""
    return {
        "by_chance": seen.by_chance,
        "agreed": int((seen.proposal >= 0).sum()),
        "estimated": seen.estimate,
        "answered_otherwise": int((seen.scored & (seen.predicted != seen.label)).sum()),
        "precision": PRECISION,
        "doubt": DOUBT.strip() if seen.knows_nothing else "",
        "training": training(seen),
    }


def training(seen: Seen) -> str:
    """Whether the network may have learnt these very labels, as far as the splits tell."""
    kinds = {name.lower() for name in seen.subject.split if name}
    seen_before = sum("train" in name.lower() for name in seen.subject.split)
    if seen_before:
        return (
            f"{seen_before} images are of a training split: their probabilities are not out of sample, and the network "
            "may have learnt their wrong labels by heart, so wrong labels among them are missed."
        )
    if kinds:
        return "No image is of a training split, if the splits are named after what the network was trained on."
    return (
        "The data name no splits, so it is not known whether the network was trained on these images. Where it was, "
        "probabilities are not out of sample, wrong labels may be learnt by heart, and suspects are missed."
    )


def _classes(seen: Seen) -> list[dict[str, Any]]:
    agreed = seen.proposal
    single = np.isin(seen.code, (HEAD, NEIGHBORS))
    rows = []
    for label, hit, n in class_counts(seen):
        given = np.bincount(agreed[(agreed >= 0) & (seen.label == label)], minlength=1)
        rows.append(
            {
                "class": label,
                "n": n,
                "suspects": hit,
                "one_signal": int((single & (seen.label == label)).sum()),
                "proposal": int(given.argmax()) if given.any() else -1,
                "proposed": int(given.max()),
                "bounds": list(wilson(hit, n)) if n else None,
            }
        )
    return rows


def _slices(seen: Seen, most: int) -> list[dict[str, Any]]:
    return [
        {
            "column": column,
            "hidden": max(0, len(rows) - most),
            "values": [{"value": value, "n": n, "suspects": hit} for value, n, hit in rows[:most]],
        }
        for column, values in seen.subject.slices.items()
        if (rows := seen.groups(values))
    ]
