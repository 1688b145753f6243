"""The dead-filter audit: channels that do no work of their own, how surely, and what in the weights is the cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, LayerSpec, SizedArray, Summary
from .causes import CAUSES, find_causes, unread
from .joining import Kin, alive_behind, duplicates, kin, making, statistics, top_images
from .judgements import Audit, Audited, is_repeated, measurements, notes
from .troubled import findings
from .troubles import TROUBLES, Limits, dormancy, linear_troubles, rate_bound, relu_troubles, weight_troubles

LAYER = ArraySpec("layer", ("filter",), "int32", "1", "Layer of the channel, as a position in the notes' layers.")
CHANNEL = ArraySpec("channel", ("filter",), "int32", "1", "Channel in its layer.")
TROUBLE = ArraySpec(
    "trouble", ("filter",), "int8", "code", f"What is wrong with it, as a position in {list(TROUBLES)}."
)
RATE = ArraySpec("rate", ("filter",), "float64", "1", "Share of usable images in which it is above zero somewhere.")
BOUND = ArraySpec(
    "bound", ("filter",), "float64", "1", "Upper 95 % bound of the rate: 3/n where it never fired, else Wilson's."
)
SCORE = ArraySpec(
    "score", ("filter",), "float64", "1", "Its mean magnitude over the mean of its layer's; NaN outside of ReLUs."
)
CAUSE = ArraySpec("cause", ("filter",), "int8", "code", f"Why, as a position in {list(CAUSES)}.")
ALIVE_BEHIND = ArraySpec(
    "alive_behind",
    ("filter",),
    "int8",
    "1",
    "1: it fires behind the first sum that it flows into (the notes' added), 0: it does not, -1: no sum or not known.",
)
REPEATED = ArraySpec(
    "repeated", ("filter",), "int8", "1", "1: a convolution's channel of which the ReLU made of it tells already."
)
#: What was joined from `weights`, so that a row explains itself.
MADE = tuple(
    ArraySpec(name, ("filter",), dtype, unit, meaning)
    for name, dtype, unit, meaning in (
        (
            "norm",
            "float64",
            "weight",
            "Norm of the incoming weights of the convolution that makes it; NaN for unknown.",
        ),
        ("bias", "float64", "1", "Bias of that convolution, 0 where it has none; NaN for unknown."),
        ("gamma", "float64", "1", "Scale of the norm behind that convolution; NaN for none."),
        ("beta", "float64", "1", "Shift of that norm; NaN for none."),
        ("outgoing", "float64", "weight", "Norm of all weights that read it; NaN for unknown."),
        ("twin", "int32", "1", "Channel with the most similar weights; -1 for none."),
        ("cosine", "float64", "1", "Cosine to its weights; NaN for none."),
    )
)


@dataclass(frozen=True)
class Filters(SoleLeaf):
    """Audit of every channel of every ReLU and convolution.

    Parameters
    ----------
    rare
        Share of images below which a channel that fires is rare.
    dormant
        Share of its layer's mean magnitude up to which a channel is dormant.
    constant
        Standard deviation, as a share of the largest magnitude, up to which a channel is constant; a little above
        what rounding in float32 makes of a constant.
    saturated
        Share of values at the layer's upper limit from which a channel is saturated.
    """

    rare: float = 0.01
    dormant: float = 0.025
    constant: float = 1e-5
    saturated: float = 0.5

    name: ClassVar[str] = "filters"
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        *(LAYER, CHANNEL, TROUBLE, RATE, BOUND, SCORE, CAUSE, ALIVE_BEHIND, REPEATED),
        *MADE,
    )

    def __post_init__(self) -> None:
        for key in ("rare", "dormant", "constant", "saturated"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"filters.{key}: expected a share between 0 and 1, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Channel statistics, what makes and reads each channel, and what the network answered."""
        return ("activations", "predictions", "weights")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One row per channel, layer after layer."""
        rows = sum(layer.shape[0] for layer in audited_layers(subject))
        return tuple(spec.sized((rows,)) for spec in self.documents)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """No tasks: `finish` judges."""
        del subject, stored
        return []

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Judge every channel."""
        del partials
        n = int((np.asarray(stored["predictions/status"][:]) == 0).sum())
        limits = Limits(self.rare, self.dormant, self.constant, self.saturated)
        audited = audited_layers(subject)
        known = kin(audited, stored)
        layers = _told_by_relus([_audited(layer, limits, n, known, stored) for layer in audited], known)
        predicted = np.asarray(stored["predictions/predicted"][:])
        codes = {finding.code for finding in stored.summary("predictions").findings}
        audit = Audit(layers, limits, n, subject.label, predicted, subject.n_class, "predictions/input-scale" in codes)
        return Summary(_columns(layers), measurements(audit), findings(audit), notes(audit))


def audited_layers(subject: Subject) -> tuple[LayerSpec, ...]:
    """Every convolution and ReLU, in the order of the forward pass."""
    return tuple(layer for layer in subject.layers if layer.kind in ("conv", "relu"))


def _audited(layer: LayerSpec, limits: Limits, n: int, known: Kin, stored: Stored) -> Audited:
    seen, made = statistics(layer, stored), making(layer, known, stored)
    if layer.kind == "relu":
        trouble, score = relu_troubles(seen, limits), dormancy(seen.mean_abs)
    else:
        near_zero = (made.near_zero > 0) | unread(made.outgoing)
        trouble = weight_troubles(linear_troubles(seen, limits), near_zero, duplicates(layer, made, known))
        score = np.full(len(seen.rate), np.nan)
    slot = known.added(layer)
    return Audited(
        layer=layer,
        trouble=trouble,
        rate=seen.rate,
        bound=rate_bound(seen.fired, n),
        score=score,
        fired=seen.fired,
        finite=seen.finite,
        top_image=top_images(layer, stored),
        cause=find_causes(trouble, made, known.is_joint(layer)),
        made=made,
        alive_behind=alive_behind(layer, known, stored),
        repeated=np.zeros(len(trouble), bool),
        off_at=known.off_at(layer),
        added=None if slot is None else (slot["layer"], slot["first"]),
    )


def _told_by_relus(layers: Sequence[Audited], known: Kin) -> tuple[Audited, ...]:
    """Mark what the ReLU made of a convolution tells too."""
    by_name = {audited.layer.name: audited for audited in layers}
    marked = []
    for audited in layers:
        relu = by_name.get(known.relu_of.get(audited.layer.name, "")) if audited.layer.kind == "conv" else None
        told = None if relu is None else is_repeated(audited.trouble, relu.trouble)
        marked.append(audited if told is None else replace(audited, repeated=told))
    return tuple(marked)


def _columns(layers: Sequence[Audited]) -> dict[str, Any]:
    sizes = [len(audited.trouble) for audited in layers]
    return {
        "layer": np.repeat(np.arange(len(layers), dtype=np.int32), sizes),
        "channel": _chained([np.arange(size, dtype=np.int32) for size in sizes], "int32"),
        **{
            spec.path: _chained([getattr(audited, spec.path) for audited in layers], spec.dtype)
            for spec in (TROUBLE, RATE, BOUND, SCORE, CAUSE, ALIVE_BEHIND, REPEATED)
        },
        **{spec.path: _chained([getattr(audited.made, spec.path) for audited in layers], spec.dtype) for spec in MADE},
    }


def _chained(parts: Sequence[np.ndarray], kind: str) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind)
