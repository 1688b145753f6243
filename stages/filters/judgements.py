"""Numbers and notes of the dead-filter audit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..numerics.chance import is_chance
from ..numerics.statistics import rule_of_three
from ..specs import LayerSpec, Measurement
from .troubles import TROUBLES, Limits


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
    def knows_nothing(self) -> bool:
        """Whether the answers are no better than chance, so that filters say little; False without labels."""
        known = (self.label >= 0) & (self.predicted >= 0)
        return bool(known.any()) and is_chance(self.label[known], self.predicted[known], self.n_class)

    def told_once(self) -> Iterator[Audited]:
        """The layers, less the channels of a convolution whose own ReLU tells of them already."""
        told = [TROUBLES.index(name) for name in ("dead", "constant", "saturated")]
        for audited, follower in zip_longest(self.layers, self.layers[1:]):
            if follower is not None and _is_own_relu(audited, follower):
                yield replace(audited, trouble=np.where(np.isin(follower.trouble, told), np.int8(0), audited.trouble))
            else:
                yield audited

    @property
    def is_finite(self) -> bool:
        """Whether every channel behind a ReLU could be measured."""
        return all(bool(audited.finite.all()) for audited in self.relus)

    def count(self, trouble: str) -> int:
        """Channels of ReLUs with that trouble."""
        return sum(len(audited.channels(trouble)) for audited in self.relus)


def _is_own_relu(audited: Audited, follower: Audited) -> bool:
    kinds = (audited.layer.kind, follower.layer.kind)
    return kinds == ("conv", "relu") and len(follower.trouble) == len(audited.trouble)


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
        "rare": f"above zero somewhere in some images, but in less than {100 * limits.rare:.4g} % of all",
        "dormant": f"mean magnitude at most {100 * limits.dormant:.4g} % of the layer's mean",
        "constant": "above zero in every image and all alike: a standard deviation of at most "
        f"{100 * limits.constant:.4g} % of the largest magnitude (behind a convolution, the latter alone)",
        "saturated": f"at least {100 * limits.saturated:.4g} % of all values at the layer's upper limit",
    }


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
        "upper_bound_if_never_fired": None if not audit.n else rule_of_three(audit.n),
        "counts": [
            {trouble: len(audited.channels(trouble)) for trouble in TROUBLES[1:]} | {"channels": len(audited.trouble)}
            for audited in audit.layers
        ],
    }
