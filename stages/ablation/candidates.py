"""Which channels are switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Case:
    """Channels of one layer that are switched off together.

    Parameters
    ----------
    row
        Row of the results.
    layer, place
        Name of the layer, and its position in the notes of the filter audit.
    channels
        The channels.
    joint
        Whether these are all flagged channels of the layer.
    silent
        Whether none of them ever fires, so that they are zero already.
    """

    row: int
    layer: str
    place: int
    channels: tuple[int, ...]
    joint: bool
    silent: bool

    @property
    def by_evidence(self) -> bool:
        """Whether the result is known without a run."""
        return self.silent and not self.joint


@dataclass(frozen=True)
class Choice:
    """What is switched off, and what the caps left out.

    Parameters
    ----------
    cases
        Single channels first, then whole layers.
    layers
        Names of all audited layers.
    flagged_channels, flagged_layers
        How many there were.
    """

    cases: tuple[Case, ...]
    layers: tuple[str, ...]
    flagged_channels: int
    flagged_layers: int


def choose(
    *,
    layers: Sequence[str],
    kinds: Sequence[str],
    troubles: Sequence[str],
    layer: Int[np.ndarray, " filter"],
    channel: Int[np.ndarray, " filter"],
    trouble: Int[np.ndarray, " filter"],
    max_channels: int,
    max_layers: int,
) -> Choice:
    """Choose what to switch off among the dead and rare channels behind ReLUs.

    Parameters
    ----------
    layers, kinds, troubles
        What the codes of the filter audit mean.
    layer, channel, trouble
        The filter audit.
    max_channels, max_layers
        How many channels by themselves, and how many layers as a whole.
    """
    dead, rare = troubles.index("dead"), troubles.index("rare")
    relu = np.array([kind == "relu" for kind in kinds], bool)
    flagged = np.flatnonzero(relu[layer] & np.isin(trouble, (dead, rare)))
    # Rare channels first: what dead ones do is known.
    singles = flagged[np.argsort(trouble[flagged] == dead, kind="stable")][:max_channels]
    places = sorted({int(place) for place in layer[flagged]})
    groups = [(np.array([single]), False) for single in singles]
    groups += [(flagged[layer[flagged] == place], True) for place in places[:max_layers]]
    cases = tuple(
        Case(
            row=row,
            layer=layers[int(layer[members[0]])],
            place=int(layer[members[0]]),
            channels=tuple(channel[members].tolist()),
            joint=joint,
            silent=bool((trouble[members] == dead).all()),
        )
        for row, (members, joint) in enumerate(groups)
    )
    return Choice(cases, tuple(layers), len(flagged), len(places))
