"""What a person should know of labels that two signals speak against."""

from __future__ import annotations

import numpy as np

from ..specs import Finding
from .evidence import Moved, Seen
from .ranking import BOTH

#: In front of what answers at chance make meaningless.
DOUBT = "The network answers no better than chance: settle that first. "
#: How much a list like this is worth, where somebody looked.
PRECISION = (
    "Of the first 50 of such lists on CIFAR-10 about 0.30 are reported as confirmed errors; of the first 30 of this "
    "one for a network that is right on 81 % of it, none looked plainly wrong. Over ten benchmark data sets people "
    "confirmed 0.51 of the candidates of confident learning (northcutt2021b). Of planted wrong labels a network "
    "that is right on 99 % of digits finds 0.92 with a precision of 0.97, that one 0.86 with 0.31"
)
_SAID = 5


def findings(seen: Seen, min_support: int, examples: int) -> tuple[Finding, ...]:
    """Suspects, classes that are named otherwise as a whole, and what could not be judged."""
    moved = seen.moved(min_support)
    return (*_suspects(seen, min_support, examples), *_moved(seen, moved, examples), *_unjudged(seen, examples))


def _suspects(seen: Seen, min_support: int, examples: int) -> tuple[Finding, ...]:
    n = seen.count(BOTH)
    if not n:
        return ()
    first = seen.first(seen.code == BOTH, examples)
    agreed = int((seen.proposal >= 0).sum())
    wrong = int((seen.scored & (seen.predicted != seen.label)).sum())
    named = ", ".join(seen.subject.image_id[image] for image in first[:_SAID])
    return (
        Finding(
            "suspects/labels",
            "info" if seen.knows_nothing else "warning",
            f"{n} of {seen.n} labels are suspects: {n / seen.n:.1%}",
            f"{DOUBT if seen.knows_nothing else ''}Confident learning and the nearest neighbors both speak against "
            f"them, and both propose the same other class for {agreed}. First: {named}{', ...' if n > _SAID else ''}."
            f"{_worst(seen, min_support)} Candidates, not errors: the network answers {wrong} images otherwise than "
            f"their label, and where all labels are right each suspect is an error of the model; signals that know "
            f"nothing of each other would share {seen.by_chance:.1f}. {PRECISION}. What next: look at them in this "
            "order, and correct the labels that are wrong.",
            first,
        ),
    )


def _worst(seen: Seen, min_support: int) -> str:
    rows = [(hit / n, label, hit, n) for label, hit, n in class_counts(seen) if n >= min_support and hit]
    if not rows:
        return ""
    share, label, hit, n = max(rows, key=lambda row: (row[0], -row[1]))
    return f" Largest share: {share:.1%} of {seen.subject.class_names[label]} ({hit} of {n})."


def class_counts(seen: Seen) -> list[tuple[int, int, int]]:
    """Label, suspects and judged images of each class."""
    names = range(seen.subject.n_class)
    own, held = seen.label[seen.code == BOTH], seen.label[seen.judged]
    return [(label, int((own == label).sum()), int((held == label).sum())) for label in names]


def _moved(seen: Seen, moved: list[Moved], examples: int) -> tuple[Finding, ...]:
    names = seen.subject.class_names
    said = [
        f"{len(one.images)} of {one.n} images labelled {names[one.label]} are answered {names[one.answer]}"
        + (", a class that no label names and that confident learning cannot judge" if one.absent else "")
        for one in moved
    ]
    if not said:
        return ()
    return (
        Finding(
            "suspects/moved-classes",
            "info" if seen.knows_nothing else "warning",
            f"{len(said)} {'label' if len(said) == 1 else 'labels'} may stand for another class as a whole",
            f"{DOUBT if seen.knows_nothing else ''}{'; '.join(said[:_SAID])}{'; ...' if len(said) > _SAID else ''}. "
            "Their neighbors bear the same label and so do not speak against it: where a whole class is labelled "
            "wrong, the second signal is as wrong, and these images are no suspects. What next: compare the order of "
            "the classes in the data with that of the model's outputs.",
            tuple(image for one in moved for image in one.images)[:examples],
        ),
    )


def _unjudged(seen: Seen, examples: int) -> tuple[Finding, ...]:
    told = unjudged(seen)
    images = np.flatnonzero(~seen.judged & seen.usable)
    n = len(seen.label) - seen.n
    if not n:
        return ()
    reasons = ", ".join(f"{count} {reason}" for reason, count in told.items() if count)
    alone = seen.scored & ~seen.judged & seen.doubted
    said = f" The head alone speaks against {int(alone.sum())} of them." if alone.any() else ""
    return (
        Finding(
            "suspects/not-judged",
            "info",
            f"The labels of {n} of {len(seen.label)} images could not be judged",
            f"It takes a label, a finite answer of the head, and a labelled neighbor. Left out: {reasons}.{said} What "
            "next: nothing where images are meant to have no label; otherwise look at what predictions and neighbors "
            "say of them.",
            tuple(images[:examples].tolist()),
        ),
    )


def unjudged(seen: Seen) -> dict[str, int]:
    """Images that are not judged, each by the first reason that applies."""
    left = ~seen.judged
    counts = {}
    for reason, mask in (
        ("could not be used", ~seen.usable),
        ("without a label", seen.label < 0),
        ("with logits that are not finite", ~seen.scored),
        ("without a labelled neighbor, or with features that cannot be compared", left),
    ):
        counts[reason] = int((left & mask).sum())
        left = left & ~mask
    return counts
