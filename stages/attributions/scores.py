"""What the network answers to many altered versions of an image: which classes' scores are kept, and how to read them.

A version is an image with a window covered (`occlusion`) or a mask laid over (`rise`). Up to `MOST_CLASSES` classes the
scores of all are kept, in ``score``. Above, each image keeps those of `SLOTS` classes, in ``slot_score``: of its five
largest logits in their order, the first of which is the prediction, and of its label. No class stands twice: the slot
of the label is empty where the label is among the five, or where there is none. Imports no torch: reports read it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ..contract import Subject, Target
from ..errors import ConfigError
from ..specs import ArraySpec, SizedArray
from .targets import MOST_CLASSES

if TYPE_CHECKING:
    from ..network.batch import Batch

#: How many of the largest logits have a slot of their own.
RANKS = 5
#: Classes kept per image where not all are: the largest logits, and the label.
SLOTS = RANKS + 1
#: ``winner`` is int16.
LARGEST = np.iinfo(np.int16).max

AGAINST = ArraySpec(
    "against",
    ("image", "target"),
    "int32",
    "class",
    "Class whose score is subtracted from that of the target, written for contrasts; -1 where none is.",
)
SLOT_CLASS = ArraySpec(
    "slot_class",
    ("image", "slot"),
    "int32",
    "class",
    f"Class whose scores are kept: the {RANKS} largest logits in their order, then the label; -1 where the label is "
    "one of these, or unknown.",
)


def score_documents(axis: str, unit: str = "1") -> tuple[ArraySpec, ...]:
    """Every array of scores that can be written, for ``documents``.

    Parameters
    ----------
    axis
        Name of the axis of versions: ``"window"`` or ``"mask"``.
    unit
        Unit of a score.
    """
    score, base = f"Score of a class under one {axis}.", "Score of a class for the image as it is."
    return (
        ArraySpec("score", ("image", axis, "class"), "float32", unit, score),
        ArraySpec("base", ("image", "class"), "float32", unit, base),
        ArraySpec("slot_score", ("image", axis, "slot"), "float32", unit, score),
        ArraySpec("slot_base", ("image", "slot"), "float32", unit, base),
        SLOT_CLASS,
        ArraySpec("winner", ("image", axis), "int16", "class", f"Class with the largest score under one {axis}."),
        AGAINST,
    )


def score_arrays(
    subject: Subject, axis: str, length: int, targets: tuple[Target, ...], unit: str = "1"
) -> tuple[SizedArray, ...]:
    """The arrays of scores for the classes of a data set, sized, for ``writes``.

    Parameters
    ----------
    subject
        What is audited.
    axis, unit
        As in `score_documents`.
    length
        How many versions there are of each image.
    targets
        As `resolve_targets` gives them; ``against`` is written where one of them is a contrast.

    Raises
    ------
    ConfigError
        When there are more classes than ``winner`` can name.
    """
    whole, base, slots, slot_base, slot_class, winner, against = score_documents(axis, unit)
    n, n_class = subject.n_image, subject.n_class
    last = (against.sized((n, len(targets))),) if "contrast" in targets else ()
    if n_class > LARGEST:
        raise ConfigError(f"attributions: scores are kept for at most {LARGEST} classes, got {n_class}")
    if n_class <= MOST_CLASSES:
        return whole.sized((n, length, n_class)), base.sized((n, n_class)), *last
    return (
        slots.sized((n, length, SLOTS)),
        slot_base.sized((n, SLOTS)),
        slot_class.sized((n, SLOTS)),
        winner.sized((n, length)),
        *last,
    )


def check_kept(targets: tuple[Target, ...], subject: Subject) -> tuple[Target, ...]:
    """Refuse targets whose scores are not kept for every image.

    Parameters
    ----------
    targets
        As `resolve_targets` gives them.
    subject
        What is audited.

    Returns
    -------
    tuple of Target
        The same.

    Raises
    ------
    ConfigError
        When the data have more than `MOST_CLASSES` classes, and a target is a class of its own or ranks too low.
    """
    kept = {"predicted", "label", "contrast", *(f"rank:{rank}" for rank in range(RANKS))}
    lost = [target for target in targets if target not in kept] if subject.n_class > MOST_CLASSES else []
    if lost:
        raise ConfigError(
            f"attributions target {lost[0]!r}: above {MOST_CLASSES} classes, got {subject.n_class}, the scores of each "
            f"image's label and {RANKS} largest logits are kept; use predicted, label, contrast or top:1 to top:{RANKS}"
        )
    return targets


def kept_classes(batch: Batch, n_class: int) -> Int[np.ndarray, "image kept"]:
    """Class positions whose scores are kept, for each image; -1 in a slot that is empty.

    Parameters
    ----------
    batch
        The images, as they are.
    n_class
        Number of classes.
    """
    if n_class <= MOST_CLASSES:
        return np.tile(np.arange(n_class), (len(batch), 1))
    ranks = np.stack([batch.target_class(f"rank:{rank}") for rank in range(RANKS)], axis=1)
    label = np.asarray(batch.target_class("label"))
    label = np.where((ranks == label[:, None]).any(axis=1), -1, label)
    return np.concatenate([ranks, label[:, None]], axis=1)


def against_classes(batch: Batch, targets: tuple[Target, ...]) -> Int[np.ndarray, "image target"]:
    """Class whose score is subtracted, for each image and target; -1 where none is."""
    label = batch.target_class("label")
    columns = [
        np.where(batch.target_class(target) >= 0, label, -1) if target == "contrast" else np.full(len(batch), -1)
        for target in targets
    ]
    return np.stack(columns, axis=1).astype(np.int32)


class ScoreRows:
    """Gathers the rows of one batch, while scores come in any order and in pieces.

    Parameters
    ----------
    batch
        The images, as they are.
    subject
        What is audited.
    targets
        As `resolve_targets` gives them.
    length
        How many versions there are of each image; those that never come stay NaN, their winner -1.
    base
        Scores of the images as they are, ``(image, class)``.
    """

    def __init__(
        self,
        batch: Batch,
        subject: Subject,
        targets: tuple[Target, ...],
        length: int,
        base: Float[np.ndarray, "image class"],
    ) -> None:
        self._classes = kept_classes(batch, subject.n_class)
        self._slotted = subject.n_class > MOST_CLASSES
        self._against = {"against": against_classes(batch, targets)} if "contrast" in targets else {}
        image = np.arange(len(batch))
        self._score = np.full((len(batch), length, self._classes.shape[1]), np.nan, np.float32)
        self._winner = np.full((len(batch), length), -1, np.int16)
        self._base = self._kept(image, base)

    def put(
        self, image: Int[np.ndarray, " n"] | int, version: Int[np.ndarray, " n"], scores: Float[np.ndarray, "n class"]
    ) -> None:
        """Take in the scores of some versions.

        Parameters
        ----------
        image
            Place in the batch, of each version or of all of them.
        version
            Which window or mask.
        scores
            Of all classes.
        """
        image = np.broadcast_to(np.asarray(image, np.int64), version.shape)
        self._score[image, version] = self._kept(image, scores)
        if self._slotted:
            known = np.isfinite(scores).all(axis=1)
            self._winner[image, version] = np.where(known, scores.argmax(axis=1), -1)

    def _kept(self, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if not self._slotted:
            return scores.astype(np.float32)
        classes = self._classes[image]
        kept = np.take_along_axis(scores, classes.clip(min=0), axis=1)
        return np.where(classes >= 0, kept, np.nan).astype(np.float32)

    def rows(self) -> dict[str, np.ndarray]:
        """The rows, by array path."""
        if not self._slotted:
            return {"score": self._score, "base": self._base, **self._against}
        return {
            "slot_score": self._score,
            "slot_base": self._base,
            "slot_class": self._classes.astype(np.int32),
            "winner": self._winner,
            **self._against,
        }


def column(row: Mapping[str, np.ndarray], wanted: int) -> int | None:
    """Where the scores of a class stand.

    Parameters
    ----------
    row
        Arrays of one image, by path: ``base`` or ``slot_class``, whichever was written.
    wanted
        Class position.

    Returns
    -------
    int or None
        Index along the last axis of the scores; None where the class was not kept for this image.
    """
    if wanted < 0:
        return None
    if "slot_class" not in row:
        return wanted if wanted < row["base"].shape[-1] else None
    places = np.flatnonzero(np.asarray(row["slot_class"]) == wanted)
    return int(places[0]) if len(places) else None


def scores_of(row: Mapping[str, np.ndarray], wanted: int, path: str = "score") -> np.ndarray:
    """Scores of one class for one image, as float64; NaN where the class was not kept.

    Parameters
    ----------
    row
        Arrays of one image, by path.
    wanted
        Class position.
    path
        ``"score"``, which gives ``(version,)``, or ``"base"``, which gives ``()``.
    """
    values, place = row[f"slot_{path}" if "slot_class" in row else path], column(row, wanted)
    return np.full(values.shape[:-1], np.nan) if place is None else np.asarray(values[..., place], np.float64)


def target_scores(row: Mapping[str, np.ndarray], path: str = "score") -> Float[np.ndarray, "target ..."]:
    """Scores of each target for one image, as float64: of its class, minus of the class that it is held against.

    Parameters
    ----------
    row
        Arrays of one image, by path, with ``target``, and ``against`` where it was written.
    path
        As in `scores_of`.
    """
    found = []
    for target, against in zip(row["target"], row.get("against", np.full(len(row["target"]), -1)), strict=True):
        scores = scores_of(row, int(target), path)
        found.append(scores if against < 0 else scores - scores_of(row, int(against), path))
    return np.stack(found)
