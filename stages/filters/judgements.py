"""Numbers and notes of the dead-filter audit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.chance import is_chance
from ..numerics.statistics import rule_of_three
from ..specs import LayerSpec, Measurement
from .causes import CAUSES, Making
from .troubles import SEEN, TROUBLES, Limits


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
    cause
        Code of why.
    made
        What makes its channels, and what reads them.
    alive_behind
        Whether a channel fires behind the first sum that it flows into; -1 for no sum, or not known.
    repeated
        Whether the ReLU made of a convolution tells of the channel already.
    off_at
        Layer at which a channel of this one is switched off.
    added
        The layer behind that sum, and its channel that channel 0 flows into; None for no sum.
    """

    layer: LayerSpec
    trouble: Int[np.ndarray, " channel"]
    rate: Float[np.ndarray, " channel"]
    bound: Float[np.ndarray, " channel"]
    score: Float[np.ndarray, " channel"]
    fired: Int[np.ndarray, " channel"]
    finite: Bool[np.ndarray, " channel"]
    top_image: Int[np.ndarray, "channel rank"]
    cause: Int[np.ndarray, " channel"]
    made: Making
    alive_behind: Int[np.ndarray, " channel"]
    repeated: Bool[np.ndarray, " channel"]
    off_at: str
    added: tuple[str, int] | None

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
    is_fed_wrongly
        Whether the numbers that the network is fed have a size that no network is trained on.
    """

    layers: tuple[Audited, ...]
    limits: Limits
    n: int
    label: Int[np.ndarray, " image"]
    predicted: Int[np.ndarray, " image"]
    n_class: int
    is_fed_wrongly: bool = False

    @property
    def relus(self) -> tuple[Audited, ...]:
        """The layers in which a channel can be silent."""
        return tuple(audited for audited in self.layers if audited.layer.kind == "relu")

    @property
    def knows_nothing(self) -> bool:
        """Whether the answers are no better than chance, so that filters say little; False without labels."""
        known = (self.label >= 0) & (self.predicted >= 0)
        return bool(known.any()) and is_chance(self.label[known], self.predicted[known], self.n_class)

    def told_once(self) -> Iterator[Audited]:
        """The layers, less the channels of a convolution whose own ReLU tells of them already."""
        for audited in self.layers:
            yield replace(audited, trouble=np.where(audited.repeated, np.int8(0), audited.trouble))

    @property
    def is_finite(self) -> bool:
        """Whether every channel behind a ReLU could be measured."""
        return all(bool(audited.finite.all()) for audited in self.relus)

    def count(self, trouble: str) -> int:
        """Channels of ReLUs with that trouble."""
        return sum(len(audited.channels(trouble)) for audited in self.relus)


def is_repeated(
    trouble: Int[np.ndarray, " channel"], relu: Int[np.ndarray, " channel"]
) -> Bool[np.ndarray, " channel"]:
    """Where a convolution's channel is in trouble and the ReLU made of it says all there is to say."""
    named, told = np.array(TROUBLES)[trouble], np.array(TROUBLES)[relu]
    whole = np.isin(told, ("dead", "constant", "saturated"))
    return (named != "none") & (whole | ((told == "dormant") & (named == "near_zero")))


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
        for trouble in SEEN
    ]
    return (share, *counts)


def definitions(limits: Limits) -> dict[str, str]:
    """What each trouble means, with the limits in force."""
    return {
        "dead": "above zero in no image",
        "rare": f"above zero somewhere in some images, but in less than {100 * limits.rare:.4g} % of all",
        "dormant": f"mean magnitude at most {100 * limits.dormant:.4g} % of the layer's mean",
        "constant": "above zero in every image and all alike: a standard deviation of at most "
        f"{100 * limits.constant:.4g} % of the largest magnitude (behind a convolution, the latter alone)",
        "saturated": f"at least {100 * limits.saturated:.4g} % of all values at the layer's upper limit",
        "duplicate": "the weights of a convolution are those of another of its channels, up to scale and sign, in a "
        "layer where chance does not make such pairs (weights.duplicate); of a pair, the later channel",
        "near_zero": "the weights of a convolution, or the scale of the norm behind it, are next to nothing beside the "
        "largest in the layer (weights.near_zero), or all weights that read it are zero",
    }


def doubt(audit: Audit) -> str:
    """What has to be settled before any filter is looked at; empty where nothing has."""
    if not audit.n:
        return "No image could be used, so no channel was judged."
    if audit.knows_nothing:
        return (
            "The network answers no better than chance: it is untrained, or it is fed what it was not trained on, and "
            "that alone can make filters look so. Settle it first; nothing below counts until then."
        )
    if audit.is_fed_wrongly:
        return (
            "The network is fed numbers of a size that no network is trained on, and that alone can silence channels "
            "or drive them to their limits. Settle the preprocessing first."
        )
    if not bool((audit.label >= 0).any()):
        return "No image has a label, so nobody can say whether the network is trained and fed rightly."
    return ""


def notes(audit: Audit) -> dict[str, Any]:
    """What the codes in the arrays mean, the limits, and a row per layer."""
    reason = {} if audit.relus else {"reason": "the network has no ReLU, so none of its channels can be silent"}
    return {
        "status": "measured" if audit.relus else "not applicable",
        **reason,
        "layers": [audited.layer.name for audited in audit.layers],
        "kinds": [audited.layer.kind for audited in audit.layers],
        "troubles": list(TROUBLES),
        "causes": list(CAUSES),
        "off_at": [audited.off_at for audited in audit.layers],
        "added": [None if audited.added is None else list(audited.added) for audited in audit.layers],
        "doubt": {"text": doubt(audit), "grave": not audit.n or audit.knows_nothing or audit.is_fed_wrongly},
        "limits": asdict(audit.limits),
        "definitions": definitions(audit.limits),
        "n": audit.n,
        "upper_bound_if_never_fired": None if not audit.n else rule_of_three(audit.n),
        "counts": [
            {trouble: len(audited.channels(trouble)) for trouble in TROUBLES[1:]} | {"channels": len(audited.trouble)}
            for audited in audit.layers
        ],
    }
