"""Which logits the heatmaps of a method explain: from config words to what the network understands."""

from __future__ import annotations

import numpy as np

from ..contract import Subject, Target
from ..errors import ConfigError, did_you_mean

#: Above this, maps of all classes would be most of the store.
MOST_CLASSES = 100


def resolve_targets(target: str | int, subject: Subject) -> tuple[Target, ...]:
    """Turn a configured target into those that the network understands.

    Parameters
    ----------
    target
        ``"predicted"``, ``"label"``, ``"contrast"``, ``"top:k"``, ``"all"``, a class position or a class name.
    subject
        What is audited.

    Returns
    -------
    tuple of Target
        One per heatmap of an image.

    Raises
    ------
    ConfigError
        When there is no such class, labels are asked of data that lack some, or there are too many classes for all.
    """
    without = int((np.asarray(subject.label) < 0).sum())
    if target in ("label", "contrast") and without:
        raise ConfigError(
            f"attributions target {target!r}: {without} of {subject.n_image} images have no label; "
            "use target 'predicted'"
        )
    if target in ("predicted", "label", "contrast"):
        return (target,)
    if target == "all":
        return _all(subject)
    if isinstance(target, str) and target.startswith("top:"):
        return _top(target, subject)
    if isinstance(target, int):
        if not 0 <= target < subject.n_class:
            raise ConfigError(f"attributions target {target}: expected a class from 0 to {subject.n_class - 1}")
        return (target,)
    if target not in subject.class_names:
        known = ("predicted", "label", "contrast", "all", "top:5", *subject.class_names)
        raise ConfigError(f"attributions target {target!r} is no class{did_you_mean(target, known)}")
    return (subject.class_names.index(target),)


def _all(subject: Subject) -> tuple[Target, ...]:
    if subject.n_class > MOST_CLASSES:
        raise ConfigError(
            f"attributions target 'all': expected at most {MOST_CLASSES} classes, got {subject.n_class}; "
            "use 'top:5', or occlusion or rise, whose scores serve all classes"
        )
    return tuple(range(subject.n_class))


def _top(target: str, subject: Subject) -> tuple[Target, ...]:
    number = target.removeprefix("top:")
    if not number.isdigit() or not 1 <= int(number) <= min(subject.n_class, MOST_CLASSES):
        raise ConfigError(f"attributions target {target!r}: expected top:1 to top:{min(subject.n_class, MOST_CLASSES)}")
    return ("predicted", *(f"rank:{rank}" for rank in range(1, int(number))))
