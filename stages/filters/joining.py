"""What other stages have stored of the layers that are audited: statistics, weights, and who is made of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..contract import Stored
from ..errors import StageError, StoreError
from ..specs import LayerSpec
from .causes import Making
from .troubles import ChannelStatistics

_STATISTICS = ("fired", "rate", "variance", "min", "max", "mean_abs", "saturated")
_OF_WEIGHTS = ("norm", "bias", "near_zero", "twin", "cosine")
#: These belong to one call of a convolution, the others to the module.
_OF_CALL = ("gamma", "beta", "centre", "spread", "outgoing")


@dataclass(frozen=True)
class Kin:
    """Which layers the channels of others are found in, as far as the network could be followed.

    Parameters
    ----------
    lineage
        Notes of `convaudit.stages.network.lineage.Lineage` by layer; empty where it could not.
    relu_of
        The ReLU that is made of each convolution, the first of several.
    first_call
        For each convolution the layer under which its weights are stored.
    alike
        Magnitude of the cosine above which two filters are duplicates.
    judged
        Convolutions in which that says more than chance.
    """

    lineage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    relu_of: Mapping[str, str] = field(default_factory=dict)
    first_call: Mapping[str, str] = field(default_factory=dict)
    alike: float = 1.0
    judged: frozenset[str] = frozenset()

    def conv_of(self, layer: LayerSpec) -> str | None:
        """The convolution that makes a layer's channels; None for nobody knows."""
        return layer.name if layer.kind == "conv" else self.lineage.get(layer.name, {}).get("conv")

    def is_joint(self, layer: LayerSpec) -> bool:
        """Whether it is known that no convolution alone makes a layer's channels."""
        return layer.kind == "relu" and layer.name in self.lineage and self.conv_of(layer) is None

    def off_at(self, layer: LayerSpec) -> str:
        """Where a channel is switched off: behind everything that belongs to it alone."""
        if layer.kind != "conv":
            return layer.name
        return self.relu_of.get(layer.name) or self.lineage.get(layer.name, {}).get("norm") or layer.name

    def added(self, layer: LayerSpec) -> Mapping[str, Any] | None:
        """Where the channels are found behind the first sum that they flow into: layer, first and width."""
        return self.lineage.get(layer.name, {}).get("added")


def kin(layers: Sequence[LayerSpec], stored: Stored) -> Kin:
    """Read what `weights` has noted.

    Parameters
    ----------
    layers
        The audited layers, in the order of the forward pass.
    stored
        With the summary of `weights`.
    """
    notes = stored.summary("weights").notes
    lineage = notes.get("lineage", {})
    relu_of: dict[str, str] = {}
    for place, layer in enumerate(layers):
        maker = lineage.get(layer.name, {}).get("conv")
        if (
            not lineage
            and place
            and layers[place - 1].kind == "conv"
            and layers[place - 1].shape[:1] == layer.shape[:1]
        ):
            # Nobody could follow the network: a ReLU right behind a convolution is taken for its own.
            maker = layers[place - 1].name
        if layer.kind == "relu" and maker is not None:
            relu_of.setdefault(maker, layer.name)
    stems: dict[str, str] = {}
    first = {
        layer.name: stems.setdefault(layer.name.partition("#")[0], layer.name)
        for layer in layers
        if layer.kind == "conv"
    }
    audits = {row["name"]: row["audit"] for row in notes.get("table", ()) if "audit" in row}
    judged = frozenset(name for name, audit in audits.items() if audit["duplicates"] is not None)
    return Kin(lineage, relu_of, first, float(notes.get("limits", {}).get("duplicate", 1.0)), judged)


def statistics(layer: LayerSpec, stored: Stored) -> ChannelStatistics:
    """What `activations` has stored of one layer.

    Raises
    ------
    StageError
        When it has not.
    """
    return ChannelStatistics(**{key: _statistic(layer.name, key, stored) for key in _STATISTICS})


def top_images(layer: LayerSpec, stored: Stored) -> Int[np.ndarray, "channel rank"]:
    """Images that excite each channel most."""
    return _statistic(layer.name, "top_image", stored)


def _statistic(layer: str, key: str, stored: Stored) -> np.ndarray:
    try:
        return np.asarray(stored[f"activations/{layer}/{key}"][:])
    except StoreError as error:
        raise StageError(
            f"filters: {key} of {layer} is not stored; activations.layers must select every conv and relu, and "
            "activations.statistics name all there are"
        ) from error


def making(layer: LayerSpec, kin: Kin, stored: Stored) -> Making:
    """What makes a layer's channels; unknown where no convolution is known to."""
    conv, n = kin.conv_of(layer), layer.shape[0]
    found = {key: np.full(n, np.nan) for key in (*_OF_WEIGHTS, *_OF_CALL, "mean", "deviation")}
    found |= {"near_zero": np.zeros(n, np.int8), "twin": np.full(n, -1, np.int32)}
    if conv is None:
        return Making(**found)
    home = kin.first_call.get(conv, conv)
    found |= {key: np.asarray(stored[f"weights/{home}/{key}"][:]) for key in _OF_WEIGHTS}
    if home == conv:
        found |= {key: np.asarray(stored[f"weights/{conv}/{key}"][:]) for key in _OF_CALL}
    seen = _statistic(conv, "mean", stored), _statistic(conv, "variance", stored)
    return Making(**found | {"mean": seen[0], "deviation": np.sqrt(np.maximum(seen[1], 0.0))})


def duplicates(layer: LayerSpec, made: Making, kin: Kin) -> Bool[np.ndarray, " channel"]:
    """Channels of a convolution whose weights are those of an earlier one, up to scale and sign.

    Of two that are each other's twin, the later one; a third that is like either of them, too.
    """
    n = len(made.twin)
    if kin.first_call.get(layer.name) not in kin.judged:
        return np.zeros(n, bool)
    alike = np.abs(np.nan_to_num(made.cosine)) > kin.alike
    back = np.where(made.twin >= 0, made.twin[made.twin], -1)
    return alike & ((made.twin < np.arange(n)) | (back != np.arange(n)))


def alive_behind(layer: LayerSpec, kin: Kin, stored: Stored) -> Int[np.ndarray, " channel"]:
    """Whether each channel fires behind the first sum that it flows into: 1, 0, or -1 for no sum or not known."""
    slot, n = kin.added(layer), layer.shape[0]
    unknown = np.full(n, -1, np.int8)
    if slot is None or slot["width"] != 1:
        return unknown
    try:
        fired = np.asarray(stored[f"activations/{slot['layer']}/fired"][:])
    except StoreError:
        return unknown
    place = slot["first"] + np.arange(n)
    inside = (place >= 0) & (place < len(fired))
    return np.where(inside, fired[np.clip(place, 0, len(fired) - 1)] > 0, unknown).astype(np.int8)
