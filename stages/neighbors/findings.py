"""What a person should know from the kNN check."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..numerics.statistics import wilson
from ..specs import Finding, Severity
from .duplicates import Groups
from .judgements import Seen

# In front of what answers at chance make meaningless.
DOUBT = "The network answers no better than chance: settle that first. "

# Severity, what the groups are, the groups, and the rest of the detail.
_Said = tuple[Severity, str, Groups, str]


def findings(seen: Seen, examples: int) -> tuple[Finding, ...]:
    """Duplicates in conflict, leaks, label suspects, what the head misses, outliers, and images without neighbors."""
    return (
        *_exact(seen, examples),
        *_nearly(seen, examples),
        *_sides(seen, examples),
        *_space(seen, examples),
        *_lost(seen, examples),
    )


def _exact(seen: Seen, examples: int) -> tuple[Finding, ...]:
    said: dict[str, _Said] = {
        "conflicting-duplicates": (
            "warning",
            "more than once under different labels",
            seen.of_labels(seen.duplicates),
            "; the bytes are equal, so at least one label of each is wrong. What next: look at each, keep one label, "
            "and correct or remove the other copies.",
        ),
        "leaking-duplicates": (
            "warning",
            "in more than one split",
            seen.of_splits(seen.duplicates),
            ". What was trained on cannot test: accuracy on them is too high. What next: remove the copies from one "
            "split.",
        ),
        "duplicates": (
            "info",
            "more than once",
            seen.duplicates,
            ". They weigh several times in every number. What next: remove the copies, unless they are meant.",
        ),
    }
    return _grouped(seen, said, examples, _images)


def _nearly(seen: Seen, examples: int) -> tuple[Finding, ...]:
    groups = seen.near_groups
    chance = (
        "near-duplicates are judged by the network's features alone, so some are merely alike"
        f" (within {seen.share:g} of the distance to the k-th neighbor, neighbors.near)"
    )
    said: dict[str, _Said] = {
        "near-conflicts": (
            "warning",
            "with near-duplicates under different labels",
            seen.of_labels(groups),
            f"; {chance}. What next: look at each pair; where it is one picture, one of the labels is wrong.",
        ),
        "near-leaks": (
            "warning",
            "with near-duplicates in more than one split",
            seen.of_splits(groups),
            f"; {chance}. What next: look at each pair; where it is one picture, remove it from one split.",
        ),
        "near-duplicates": (
            "info",
            "with near-duplicates",
            groups,
            f"; {chance}. What next: look at them; frames of one film or scaled copies belong into one split.",
        ),
    }
    return _grouped(seen, said, examples, _pictures)


def _grouped(
    seen: Seen, said: dict[str, _Said], examples: int, counted: Callable[[Groups], str]
) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            f"neighbors/{code}", severity, f"{counted(groups)} {what}", _listed(seen, groups) + rest,
            _flat(groups, examples),
        )
        for code, (severity, what, groups, rest) in said.items()
        if groups
    )  # fmt: skip


def _sides(seen: Seen, examples: int) -> tuple[Finding, ...]:
    found = []
    missed, caught = int(seen.triangle.neighbors_only.sum()), int(seen.triangle.head_only.sum())
    if seen.triangle.suspect.any():
        found.append(
            Finding(
                "neighbors/against-labels",
                "info",
                f"Head and neighbors agree against {int(seen.triangle.suspect.sum())} of {seen.n} labels",
                f"{DOUBT if seen.knows_nothing else ''}Either the labels are wrong or the model is: both rest on the "
                "same features and so share their mistakes. What next: the stage suspects ranks labels by how much "
                "speaks against them; take the others for errors of the model.",
                seen.ranked(seen.triangle.suspect, examples),
            )
        )
    if missed:
        found.append(
            Finding(
                "neighbors/head-misses",
                # Beyond doubt when these outnumber the images that the head alone gets right.
                "warning" if wilson(missed, missed + caught)[0] > 0.5 else "info",
                f"The head misses {missed} of {seen.n} images that their neighbors get right",
                "The features tell these apart, and the last layer does not. What next: if there are many, train the "
                "last layer again (on balanced classes) before anything deeper.",
                seen.ranked(seen.triangle.neighbors_only, examples),
            )
        )
    return tuple(found)


def _space(seen: Seen, examples: int) -> tuple[Finding, ...]:
    found = []
    if len(seen.outliers):
        found.append(
            Finding(
                "neighbors/outliers",
                "info",
                f"{_counted(len(seen.outliers))} no other nearby",
                f"Their k-th neighbor is further than {seen.outlying[1]:.4g} (third quartile plus three times the "
                f"distance between the quartiles; {seen.definition}). What next: look for broken pictures, other "
                "objects and rare kinds.",
                tuple(seen.outliers[:examples].tolist()),
            )
        )
    if seen.same.any():
        found.append(
            Finding(
                "neighbors/same-features",
                "warning",
                f"{_counted(int(seen.same.sum()))} the very same features as all of their neighbors",
                "Each distance to a neighbor is 0, so the neighbors are told by position alone and near-duplicates are "
                "not looked for among them. What next: look for dead channels before the head, or for many copies of "
                "one picture.",
                tuple(np.flatnonzero(seen.same)[:examples].tolist()),
            )
        )
    return tuple(found)


def _lost(seen: Seen, examples: int) -> tuple[Finding, ...]:
    broken, flat = np.flatnonzero(seen.search == 3), np.flatnonzero(seen.search == 4)
    found = []
    if len(broken):
        found.append(
            Finding(
                "neighbors/not-finite",
                "warning",
                f"{_counted(len(broken))} features that are not finite",
                "They have no neighbors and are nobody's. What next: look at the model's weights, and at what these "
                "images hold.",
                tuple(broken[:examples].tolist()),
            )
        )
    if len(flat):
        found.append(
            Finding(
                "neighbors/no-direction",
                "warning",
                f"{_counted(len(flat))} features that are all zero",
                "They have no direction and so no cosine; they have no neighbors and are nobody's. What next: look for "
                "dead channels before the head, or set neighbors.metric=euclidean.",
                tuple(flat[:examples].tolist()),
            )
        )
    return tuple(found)


def _counted(n: int) -> str:
    return "1 image has" if n == 1 else f"{n} images have"


def _images(groups: Groups) -> str:
    return "1 image occurs" if len(groups) == 1 else f"{len(groups)} images occur"


def _pictures(groups: Groups) -> str:
    n = sum(map(len, groups))
    return f"{n} images in {len(groups)} group{'s' * (len(groups) > 1)}"


def _listed(seen: Seen, groups: Groups, limit: int = 3) -> str:
    shown = "; ".join(" = ".join(seen.subject.image_id[i] for i in group[:4]) for group in groups[:limit])
    return shown + (f"; and {len(groups) - limit} more" if len(groups) > limit else "")


def _flat(groups: Groups, limit: int) -> tuple[int, ...]:
    return tuple(position for group in groups for position in group)[:limit]
