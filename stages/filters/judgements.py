"""Numbers, findings and notes of the dead-filter audit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.statistics import rule_of_three, wilson
from ..specs import Finding, LayerSpec, Measurement, Severity
from .chance import agreement_by_chance
from .troubles import TROUBLES, Limits

_SEVERITY: dict[str, Severity] = {
    "dead": "warning",
    "rare": "info",
    "saturated": "warning",
    "constant": "warning",
    "dormant": "info",
}


@dataclass(frozen=True)
class Audited:
    """One layer after the audit; arrays of shape ``(channel,)``.

    Parameters
    ----------
    layer
        The layer.
    trouble
        Code of what is wrong.
    rate, bound, fired
        Share of images in which a channel fires, its upper 95 % bound, and the number of these images.
    score
        Dormancy; NaN outside of ReLUs.
    finite
        Whether the channel's values are finite; one that is not has no trouble of these.
    top_image
        Images that excite each channel most. Shape ``(channel, rank)``.
    """

    layer: LayerSpec
    trouble: Int[np.ndarray, " channel"]
    rate: Float[np.ndarray, " channel"]
    bound: Float[np.ndarray, " channel"]
    score: Float[np.ndarray, " channel"]
    fired: Int[np.ndarray, " channel"]
    finite: Bool[np.ndarray, " channel"]
    top_image: Int[np.ndarray, "channel rank"]

    def channels(self, trouble: str) -> Int[np.ndarray, " flagged"]:
        """The channels with that trouble."""
        return np.flatnonzero(self.trouble == TROUBLES.index(trouble))


@dataclass(frozen=True)
class Audit:
    """All layers after the audit, and what is needed to know whether it means anything.

    Parameters
    ----------
    layers
        Every audited layer, in the order of the forward pass.
    limits
        Where trouble begins.
    n
        Usable images.
    label, predicted
        Class positions; -1 for none. Shape ``(image,)``.
    n_class
        Number of classes.
    """

    layers: tuple[Audited, ...]
    limits: Limits
    n: int
    label: Int[np.ndarray, " image"]
    predicted: Int[np.ndarray, " image"]
    n_class: int

    @property
    def relus(self) -> tuple[Audited, ...]:
        """The layers in which a channel can be silent."""
        return tuple(audited for audited in self.layers if audited.layer.kind == "relu")

    @property
    def is_finite(self) -> bool:
        """Whether every channel behind a ReLU could be measured."""
        return all(bool(audited.finite.all()) for audited in self.relus)

    def count(self, trouble: str) -> int:
        """Channels of ReLUs with that trouble."""
        return sum(len(audited.channels(trouble)) for audited in self.relus)


def measurements(audit: Audit) -> tuple[Measurement, ...]:
    """Share of dead channels, and how many have each trouble."""
    channels = sum(len(audited.trouble) for audited in audit.relus)
    if not channels:
        return ()
    path, where = "filters/trouble", f"of {channels} channels behind a ReLU, over {audit.n} images"
    known = audit.n > 0 and audit.is_finite
    dead = audit.count("dead")
    share = Measurement(
        "filters/dead_fraction",
        dead / channels if known else math.nan,
        "1",
        "lower",
        channels,
        path,
        f"Share {where}, that are above zero in no image at any position.",
    )
    counts = [
        Measurement(
            f"filters/{trouble}_count",
            float(audit.count(trouble)) if known else math.nan,
            "channels",
            "lower",
            channels,
            path,
            f"How many {where}, are {trouble}: {definitions(audit.limits)[trouble]}.",
        )
        for trouble in TROUBLES[1:]
    ]
    return (share, *counts)


def definitions(limits: Limits) -> dict[str, str]:
    """What each trouble means, with the limits in force."""
    return {
        "dead": "above zero in no image",
        "rare": f"above zero somewhere in some images, but in less than {limits.rare:.4g} of them",
        "dormant": f"mean magnitude at most {limits.dormant:.4g} of the layer's mean",
        "constant": f"in every image, with a standard deviation of at most {limits.constant:.4g} of its peak magnitude",
        "saturated": f"at least {limits.saturated:.4g} of all values at the layer's upper limit",
    }


def findings(audit: Audit) -> tuple[Finding, ...]:
    """First whether the network knows anything at all, then one finding per layer and trouble."""
    if not audit.n:
        title = "No image could be used, so no channel was judged"
        return (
            Finding("filters/no-images", "error", title, "Every rate is unknown; see the bad images of predictions."),
        )
    first = _chance(audit)
    return (*first, *(found for audited in _silent_once(audit) for found in _of_layer(audited, audit)))


def _chance(audit: Audit) -> tuple[Finding, ...]:
    known = (audit.label >= 0) & (audit.predicted >= 0)
    label, predicted = audit.label[known], audit.predicted[known]
    if len(np.unique(label)) < 2:
        return ()
    chance, right = agreement_by_chance(label, predicted, audit.n_class), int((label == predicted).sum())
    low, high = wilson(right, len(label))
    if low > chance:
        return ()
    return (
        Finding(
            "filters/at-chance",
            "error",
            "The network answers no better than chance: look at that before its filters",
            f"Accuracy {right / len(label):.1%} [{low:.1%}, {high:.1%}] on {len(label)} images, {chance:.1%} "
            "expected of answers that know nothing. Untrained weights or preprocessing unlike the training's make "
            "filters look dead; check model weights, mean, std, colour mode and class order first.",
        ),
    )


def _silent_once(audit: Audit) -> Iterator[Audited]:
    """The layers, less the channels of a convolution whose own ReLU tells of them already."""
    for place, audited in enumerate(audit.layers):
        follower = audit.layers[place + 1] if place + 1 < len(audit.layers) else None
        told = (
            audited.layer.kind == "conv"
            and follower is not None
            and follower.layer.kind == "relu"
            and len(follower.trouble) == len(audited.trouble)
        )
        if told and follower is not None:
            silent = np.isin(follower.trouble, [TROUBLES.index(name) for name in ("dead", "constant", "saturated")])
            trouble = np.where(silent, np.int8(0), audited.trouble)
            yield Audited(**{**vars(audited), "trouble": trouble})
        else:
            yield audited


def _of_layer(audited: Audited, audit: Audit) -> Iterator[Finding]:
    for trouble, severity in _SEVERITY.items():
        channels = audited.channels(trouble)
        if len(channels):
            yield Finding(
                f"filters/{trouble}",
                severity,
                f"{len(channels)} of {len(audited.trouble)} channels of {audited.layer.name} are {trouble}",
                f"{_named(audited, channels, trouble)}: {definitions(audit.limits)[trouble]}, over {audit.n} images. "
                f"{_advice(trouble, audit.n)}",
                _evidence(audited, channels) if trouble in ("rare", "dormant") else (),
                audited.layer.name,
                tuple(channels.tolist()),
            )


def _named(audited: Audited, channels: np.ndarray, trouble: str, limit: int = 8) -> str:
    shown = ", ".join(f"{channel}{_told(audited, channel, trouble)}" for channel in channels[:limit])
    more = f" and {len(channels) - limit} more" if len(channels) > limit else ""
    return f"Channels {shown}{more}"


def _told(audited: Audited, channel: int, trouble: str) -> str:
    if trouble == "rare":
        return f" (fires in {audited.rate[channel]:.3%} of the images; 95 %: below {audited.bound[channel]:.3%})"
    return f" ({audited.score[channel]:.3g} of the mean)" if trouble == "dormant" else ""


def _advice(trouble: str, n: int) -> str:
    return {
        "dead": f"Seen in 0 of {n} images, so the true rate is below {rule_of_three(n):.3%} at 95 % (rule of three), "
        "which is not zero; look at the bias and at the scale of the norm layer.",
        "rare": "It may have learnt something that is rare in these data; the images shown excite it most.",
        "dormant": "It fires, but adds next to nothing beside its neighbors.",
        "constant": "It says the same of every image, so it is a bias; look for zero weights in front of it.",
        "saturated": "Its input lies above the limit, where no gradient flows back.",
    }[trouble]


def _evidence(audited: Audited, channels: np.ndarray, limit: int = 8) -> tuple[int, ...]:
    """Images in which the flagged channels fire, the strongest of each channel first."""
    images = [
        int(image)
        for rank in range(audited.top_image.shape[1])
        for channel in channels
        if (image := audited.top_image[channel, rank]) >= 0 and rank < audited.fired[channel]
    ]
    return tuple(dict.fromkeys(images))[:limit]


def notes(audit: Audit) -> dict[str, Any]:
    """What the codes in the arrays mean, the limits, and a row per layer."""
    reason = {} if audit.relus else {"reason": "the network has no ReLU, so none of its channels can be silent"}
    return {
        "status": "measured" if audit.relus else "not applicable",
        **reason,
        "layers": [audited.layer.name for audited in audit.layers],
        "kinds": [audited.layer.kind for audited in audit.layers],
        "troubles": list(TROUBLES),
        "limits": asdict(audit.limits),
        "definitions": definitions(audit.limits),
        "n": audit.n,
        "bound_of_never": None if not audit.n else rule_of_three(audit.n),
        "counts": [
            {trouble: len(audited.channels(trouble)) for trouble in TROUBLES[1:]} | {"channels": len(audited.trouble)}
            for audited in audit.layers
        ],
    }
