"""What a person should know of classes that mix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ..specs import Finding
from .agreement import Agreement
from .pairs import CLOSE, HEAD, REPRESENTATION, Judged

_NAMED = 3


@dataclass(frozen=True)
class Told:
    """Everything that findings are made of.

    Parameters
    ----------
    found
        All pairs.
    first
        Those that have examples, in the order of `near` and `taken`.
    agreed
        Rank correlations of the signals.
    class_names
        Name of each class.
    near, taken
        Examples: near the other's centroid, and answered as the other class.
    min_support
        Images that a class needs.
    at_chance
        Whether the network answers no better than chance.
    """

    found: Judged
    first: Int[np.ndarray, " shown"]
    agreed: Sequence[Agreement]
    class_names: tuple[str, ...]
    near: Int[np.ndarray, "shown side example"]
    taken: Int[np.ndarray, "shown side example"]
    min_support: int
    at_chance: bool

    def of(self, verdict: int) -> list[int]:
        """Pairs of that verdict, the first to look at first."""
        return [int(at) for at in self.found.order() if self.found.verdict[at] == verdict]

    def name(self, at: int) -> str:
        """Both classes of a pair."""
        known = self.found.evidence
        return f"{self.class_names[known.first[at]]} and {self.class_names[known.second[at]]}"

    def images(self, pairs: Sequence[int], *, near: bool) -> tuple[int, ...]:
        """Examples of those pairs that have some; each image once."""
        place = {int(at): row for row, at in enumerate(self.first)}
        source = self.near if near else self.taken
        shown = [source[place[at]].T.ravel() for at in pairs[:_NAMED] if at in place]
        return tuple(dict.fromkeys(int(image) for images in shown for image in images if image >= 0))


def findings(told: Told) -> tuple[Finding, ...]:
    """Pairs that the head, the features, or soon both confuse; signals that contradict each other; too few images."""
    few = _few(told)
    if told.at_chance:
        # The stage confusion says so, with what to do; pairs mean nothing before.
        return few
    return (*_head(told), *_representation(told), *_close(told), *_contradiction(told), *few)


def _head(told: Told) -> tuple[Finding, ...]:
    known = told.found.evidence

    def said(at: int) -> str:
        return (
            f"{told.name(at)}: {_share(told, at)} confused; {known.head_only[at]:g} of them lie nearer to their own "
            f"centroid, where {known.features_only[at]:g} that the head does not confuse lie nearer to the other"
        )

    return _listed(
        told,
        HEAD,
        ("mixing/head-problem", "confused although the features set them apart"),
        said,
        "The features hold the difference, the last layer does not use it. What next: compare the last layer's weights "
        "and biases of the two classes, then train that layer again; nothing deeper is needed.",
        near=False,
    )


def _representation(told: Told) -> tuple[Finding, ...]:
    return _listed(
        told,
        REPRESENTATION,
        ("mixing/representation-problem", "confused and mixed in the features"),
        lambda at: f"{told.name(at)}: {_share(told, at)} confused, {_inside(told, at)}",
        "A new last layer will not part them. What next: look at the images (could people tell them apart, are the "
        "labels right?), then train the features on more of them, or merge the classes.",
        near=False,
    )


def _close(told: Told) -> tuple[Finding, ...]:
    return _listed(
        told,
        CLOSE,
        ("mixing/close-call", "not confused, but close in the features"),
        lambda at: f"{told.name(at)}: {_share(told, at)} confused, {_inside(told, at)}",
        "The last layer still tells them apart, with little to go by: other images, or another training, may confuse "
        "them. What next: watch these pairs on new data.",
        near=True,
    )


def _listed(
    told: Told, verdict: int, named: tuple[str, str], said: Callable[[int], str], rest: str, *, near: bool
) -> tuple[Finding, ...]:
    pairs = told.of(verdict)
    if not pairs:
        return ()
    (code, what), n = named, len(pairs)
    some = "; ".join(said(at) for at in pairs[:_NAMED]) + (f"; and {n - _NAMED} more" if n > _NAMED else "")
    subject = "1 pair of classes is" if n == 1 else f"{n} pairs of classes are"
    title = f"{subject} {what}: {told.name(pairs[0])}" + (" first" if n > 1 else "")
    severity = "info" if verdict == CLOSE else "warning"
    return (Finding(code, severity, title, f"{some}. {rest}", told.images(pairs, near=near)),)


def _share(told: Told, at: int) -> str:
    known = told.found.evidence
    return f"{int(known.hits[at, 0])} of {int(known.images[at, 0])} images ({known.value[at, 0]:.1%})"


def _inside(told: Told, at: int) -> str:
    known = told.found.evidence
    crossed = known.hits[at, 1] / known.images[at, 1]
    return (
        f"centroids {known.value[at, 1]:.2f} standard deviations apart ({crossed:.1%} of the images lie nearer to the "
        f"other), {known.value[at, 2]:.2f} times as many shared neighbors as by chance"
    )


def _contradiction(told: Told) -> tuple[Finding, ...]:
    """Confusion that goes with neither signal from inside, although some of it stands out and is not the head's."""
    outside = [one for one in told.agreed if "confusion" in one.signals]
    unexplained = told.found.speaks[:, 0] & (told.found.verdict != HEAD)
    if not unexplained.any() or any(one.low is None or one.low > 0 for one in outside):
        return ()
    shown = "; ".join(f"with {one.signals[1]} {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in outside)
    return (
        Finding(
            "mixing/signals-disagree",
            "warning",
            "What the network confuses is not what lies close inside it",
            f"Rank correlation of confusion over {outside[0].n} pairs of classes: {shown}; both may be 0. Either the "
            "compared layer is not what the answers rest on, or labels are wrong. What next: compare another layer "
            "(neighbors.layer), then look at the label suspects.",
        ),
    )


def _few(told: Told) -> tuple[Finding, ...]:
    known = told.found.evidence
    if known.enough.any():
        return ()
    return (
        Finding(
            "mixing/few-images",
            "info",
            "No pair of classes has enough images to be judged",
            f"Each class of a pair needs {told.min_support} images with label, answer, features and labelled neighbors."
            " What next: audit more images, or lower mixing.min_support.",
        ),
    )
