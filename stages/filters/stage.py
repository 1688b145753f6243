"""The dead-filter audit: channels that never fire, hardly ever do, hardly matter, never vary or are stuck high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError, StageError, StoreError
from ..specs import ArraySpec, LayerSpec, SizedArray, Summary
from .judgements import Audit, Audited, measurements, notes
from .troubled import findings
from .troubles import TROUBLES, ChannelStatistics, Limits, dormancy, linear_troubles, rate_bound, relu_troubles

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
    documents: ClassVar[tuple[ArraySpec, ...]] = (LAYER, CHANNEL, TROUBLE, RATE, BOUND, SCORE)

    def __post_init__(self) -> None:
        for key in ("rare", "dormant", "constant", "saturated"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"filters.{key}: expected a share between 0 and 1, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Channel statistics, and what the network answered."""
        return ("activations", "predictions")

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
        layers = tuple(_audited(layer, limits, n, stored) for layer in audited_layers(subject))
        predicted = np.asarray(stored["predictions/predicted"][:])
        audit = Audit(layers, limits, n, subject.label, predicted, subject.n_class)
        return Summary(_columns(layers), measurements(audit), findings(audit), notes(audit))


def audited_layers(subject: Subject) -> tuple[LayerSpec, ...]:
    """Every convolution and ReLU, in the order of the forward pass."""
    return tuple(layer for layer in subject.layers if layer.kind in ("conv", "relu"))


def _audited(layer: LayerSpec, limits: Limits, n: int, stored: Stored) -> Audited:
    try:
        columns = {
            key: np.asarray(stored[f"activations/{layer.name}/{key}"][:])
            for key in ("fired", "rate", "variance", "min", "max", "mean_abs", "saturated")
        }
        top = np.asarray(stored[f"activations/{layer.name}/top_image"][:])
    except StoreError as error:
        raise StageError(
            f"filters: statistics of {layer.name} are not stored; activations.layers must select every conv and relu"
        ) from error
    seen = ChannelStatistics(**columns)
    judge = relu_troubles if layer.kind == "relu" else linear_troubles
    return Audited(
        layer=layer,
        trouble=judge(seen, limits),
        rate=seen.rate,
        bound=rate_bound(seen.fired, n),
        score=dormancy(seen.mean_abs) if layer.kind == "relu" else np.full(len(seen.rate), np.nan),
        fired=seen.fired,
        finite=seen.finite,
        top_image=top,
    )


def _columns(layers: Sequence[Audited]) -> dict[str, Any]:
    sizes = [len(audited.trouble) for audited in layers]
    return {
        "layer": np.repeat(np.arange(len(layers), dtype=np.int32), sizes),
        "channel": _chained([np.arange(size, dtype=np.int32) for size in sizes], np.int32),
        "trouble": _chained([audited.trouble for audited in layers], np.int8),
        "rate": _chained([audited.rate for audited in layers], np.float64),
        "bound": _chained([audited.bound for audited in layers], np.float64),
        "score": _chained([audited.score for audited in layers], np.float64),
    }


def _chained(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind)
