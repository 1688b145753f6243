"""What the confusion matrix tells a person: the cause first where one explains the rest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from ..numerics.chance import agreement_by_chance, is_chance
from ..numerics.statistics import wilson
from ..specs import Finding
from .judgements import Counted
from .matrix import best_order, recall, renamed_labels

# A renaming has to explain this much more of the images, and most of them, before the order is doubted.
_ORDER_GAIN = 0.2
_ORDER_SHARE = 0.5
# Below this recall a class is mostly missed.
_MISSED = 0.5


def findings(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    """Classes in another order or answers at chance; else classes that are missed; then labels with too few images."""
    cause = _order(counted, min_support) or _chance(counted)
    missed = () if cause else (*_never(counted, min_support), *_mostly_missed(counted, min_support))
    return (*cause, *missed, *_support(counted, min_support))


def _order(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    answer, share = best_order(counted.matrix)
    support = counted.matrix.sum(axis=1)
    accuracy = np.trace(counted.matrix) / counted.n
    # With few images per label, some renaming fits any answers.
    enough = counted.n >= min_support * np.count_nonzero(support)
    explained = enough and share > _ORDER_SHARE and share > accuracy + _ORDER_GAIN
    moved = [int(i) for i in np.flatnonzero(answer != np.arange(len(answer))) if counted.matrix[i, answer[i]]]
    moved = moved if explained else list(renamed_labels(counted.matrix, answer))
    if not moved:
        return ()
    swaps = ", ".join(f"{counted.class_names[i]} as {counted.class_names[answer[i]]}" for i in moved[:10])
    more = f" and {len(moved) - 10} more" if len(moved) > 10 else ""
    whose = f"{len(moved)} classes" if len(moved) < len(answer) else "The classes"
    return (
        Finding(
            "confusion/class-order",
            "error",
            f"{whose} of model and data seem to stand in different orders",
            f"Renaming the answers one to one would make {share:.1%} of {counted.n} images right instead of "
            f"{accuracy:.1%}: {swaps}{more}. What next: compare the class names, in the order of the logits, with the "
            "order the model was trained with; look at the images before anything is trained again.",
            _of_pairs(counted, moved),
        ),
    )


def _chance(counted: Counted) -> tuple[Finding, ...]:
    label, predicted = (np.repeat(axis.ravel(), counted.matrix.ravel()) for axis in np.indices(counted.matrix.shape))
    n_class = len(counted.class_names)
    if not is_chance(label, predicted, n_class):
        return ()
    chance, right = agreement_by_chance(label, predicted, n_class), int((label == predicted).sum())
    low, high = wilson(right, counted.n)
    answered = counted.matrix.sum(axis=0)
    often = np.argsort(-answered, kind="stable")[:3]
    given = ", ".join(f"{counted.class_names[i]} ({answered[i] / counted.n:.1%})" for i in often if answered[i])
    return (
        Finding(
            "confusion/at-chance",
            "error",
            "The network answers no better than chance: untrained weights, or input unlike that of the training",
            f"Accuracy {right / counted.n:.1%} [{low:.1%}, {high:.1%}] on {counted.n} images, where answers of "
            f"the same frequencies that know nothing would have {chance:.1%}. Most frequent answers: {given}. "
            "What next: check, in this order, that the checkpoint is the trained one, that mean, std, colour mode and "
            "size are those of the training, and the order of the classes. Read nothing else in this report before.",
            _of_pairs(counted, range(len(counted.class_names))),
        ),
    )


def _never(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    support, answered = counted.matrix.sum(axis=1), counted.matrix.sum(axis=0)
    never = np.flatnonzero((answered == 0) & (support >= min_support))
    if not len(never):
        return ()
    word = "class is" if len(never) == 1 else "classes are"
    return (
        Finding(
            "confusion/never-predicted",
            "error",
            f"{len(never)} {word} never predicted: {_named(counted, never, 4)}",
            f"Not one of {counted.n} images was answered with: {_named(counted, never)}, although their labels occur. "
            "What next: look at the last layer's bias and weights for it, then for its images in the training data.",
            _of_pairs(counted, never),
        ),
    )


def _mostly_missed(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    support, answered = counted.matrix.sum(axis=1), counted.matrix.sum(axis=0)
    missed = [
        i
        for i in np.argsort(
            recall(counted.matrix), kind="stable"
        )  # a class without images comes last and has no support
        if support[i] >= min_support and answered[i] and wilson(int(counted.matrix[i, i]), int(support[i]))[1] < _MISSED
    ]
    if not missed:
        return ()
    word = "class is" if len(missed) == 1 else "classes are"
    return (
        Finding(
            "confusion/mostly-missed",
            "warning",
            f"{len(missed)} {word} mostly missed: {_named(counted, np.array(missed), 4)}",
            f"Worst first: {'; '.join(_missed(counted, i) for i in missed[:5])}. Fewer than half are found, beyond the "
            "doubt of a 95 % interval. What next: look at the images beside the pairs in the confusion section; one "
            "wrong answer that takes nearly all points at labels or class order, many point at too little training.",
            _of_pairs(counted, missed),
        ),
    )


def _missed(counted: Counted, label: int) -> str:
    row = counted.matrix[label].copy()
    total, right = int(row.sum()), int(row[label])
    row[label] = 0
    instead = int(row.argmax())
    return (
        f"{counted.class_names[label]} is right in {right} of {total}, and answered as "
        f"{counted.class_names[instead]} in {int(row[instead])}"
    )


def _support(counted: Counted, min_support: int) -> tuple[Finding, ...]:
    support = counted.matrix.sum(axis=1)
    found = []
    absent = np.flatnonzero(support == 0)
    if len(absent):
        title = f"{len(absent)} {'class has' if len(absent) == 1 else 'classes have'} no images"
        detail = f"Their recall is unknown: {_named(counted, absent)}. What next: add images of them."
        found.append(Finding("confusion/absent-label", "warning", title, detail))
    few = np.flatnonzero((support > 0) & (support < min_support))
    if len(few):
        title = f"{len(few)} {'label has' if len(few) == 1 else 'labels have'} fewer than {min_support} images"
        detail = (
            f"Their recall is too uncertain to be the worst: {_named(counted, few)}. What next: add images, or lower "
            "confusion.min_support."
        )
        found.append(Finding("confusion/few-images", "info", title, detail))
    return tuple(found)


def _of_pairs(counted: Counted, labels: Iterable[int], limit: int = 12) -> tuple[int, ...]:
    """Images of the most confused pairs of these labels: the surest of each pair first."""
    wanted = {int(label) for label in labels}
    shown = [images for (label, _), images in zip(counted.pair, counted.images, strict=True) if int(label) in wanted]
    depth = max((len(images) for images in shown), default=0)
    return tuple(images[rank] for rank in range(depth) for images in shown if rank < len(images))[:limit]


def _named(counted: Counted, classes: Int[np.ndarray, " n"], limit: int = 10) -> str:
    names = ", ".join(counted.class_names[i] for i in classes[:limit])
    return names + (f" and {len(classes) - limit} more" if len(classes) > limit else "")
