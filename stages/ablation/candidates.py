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
        Name of the layer in which they are switched off, and its position in `Choice.layers`.
    channels
        The channels.
    joint
        Whether these are all channels of the layer that look idle.
    silent
        Whether none of them ever fires, so that they are zero already.
    troubles
        What is wrong with them, each kind once.
    """

    row: int
    layer: str
    place: int
    channels: tuple[int, ...]
    joint: bool
    silent: bool
    troubles: tuple[str, ...] = ()

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
        Names of all audited layers, and of others in which channels are switched off.
    flagged_channels, flagged_layers
        How many channels are in trouble, and how many layers have some that look idle.
    """

    cases: tuple[Case, ...]
    layers: tuple[str, ...]
    flagged_channels: int
    flagged_layers: int


#: Kinds of trouble from the most telling: answers may hang on what fires rarely; what a dead channel does is known.
TELLING = ("rare", "saturated", "constant", "duplicate", "near_zero", "dormant", "dead")
#: Those that look idle, so that all of a layer might go at once; the others do something, if little of their own.
IDLE = frozenset({"dead", "rare", "dormant", "near_zero"})


@dataclass(frozen=True)
class Flags:
    """The filter audit.

    Parameters
    ----------
    layers, kinds, troubles
        What its codes mean.
    off_at
        For each layer, where its channels are switched off.
    layer, channel, trouble, repeated
        One row per channel.
    """

    layers: Sequence[str]
    kinds: Sequence[str]
    troubles: Sequence[str]
    off_at: Sequence[str]
    layer: Int[np.ndarray, " filter"]
    channel: Int[np.ndarray, " filter"]
    trouble: Int[np.ndarray, " filter"]
    repeated: Int[np.ndarray, " filter"]

    def kind(self, row: int) -> str:
        """What is wrong with a channel."""
        return self.troubles[int(self.trouble[row])]

    def is_silent(self, row: int) -> bool:
        """Whether a channel is zero already, since it stands behind a ReLU and never fires."""
        return self.kinds[int(self.layer[row])] == "relu" and self.kind(row) == "dead"

    def place(self, row: int) -> str:
        """Where a channel is switched off."""
        return self.off_at[int(self.layer[row])]

    def rows(self) -> list[int]:
        """Channels in trouble, each once, by kind from the most telling and then in the order of the forward pass."""
        flagged = np.flatnonzero((self.trouble > 0) & (self.repeated == 0))
        told = np.array([TELLING.index(self.troubles[int(code)]) for code in self.trouble[flagged]], np.int64)
        # Convolution and ReLU may both be in trouble; the channel is switched off once.
        once: dict[tuple[str, int], int] = {}
        for row in flagged[np.argsort(told, kind="stable")].tolist():
            once.setdefault((self.place(row), int(self.channel[row])), row)
        return list(once.values())


def choose(flags: Flags, max_channels: int, max_layers: int) -> Choice:
    """Choose what to switch off among the channels in trouble.

    By themselves: one channel of each kind of trouble in turn, so that no kind uses up the cap; those that are zero
    already last, since they take no run. Then all that look idle in a layer, in the order of the forward pass.

    Parameters
    ----------
    flags
        The filter audit.
    max_channels, max_layers
        How many channels by themselves, and how many layers as a whole.
    """
    flagged = flags.rows()
    layers = tuple(dict.fromkeys([*flags.layers, *flags.off_at]))
    together: dict[str, list[int]] = {}
    for row in sorted(row for row in flagged if flags.kind(row) in IDLE):
        together.setdefault(flags.place(row), []).append(row)
    groups = [([row], False) for row in _in_turn(flags, flagged)[:max_channels]]
    groups += [(rows, True) for rows in list(together.values())[:max_layers]]
    cases = tuple(_case(number, rows, joint, flags, layers) for number, (rows, joint) in enumerate(groups))
    return Choice(cases, layers, len(flagged), len(together))


def _in_turn(flags: Flags, flagged: Sequence[int]) -> list[int]:
    """The first of every kind, then the second of every kind, and so on; what is zero already at the end."""
    seen: dict[int, int] = {}
    keys = []
    for row in flagged:
        code = int(flags.trouble[row])
        seen[code] = seen.get(code, -1) + 1
        keys.append((flags.is_silent(row), seen[code], TELLING.index(flags.troubles[code])))
    return [flagged[at] for at in sorted(range(len(flagged)), key=lambda at: keys[at])]


def _case(number: int, rows: Sequence[int], joint: bool, flags: Flags, layers: Sequence[str]) -> Case:
    place = flags.place(rows[0])
    return Case(
        row=number,
        layer=place,
        place=layers.index(place),
        channels=tuple(sorted(int(flags.channel[row]) for row in rows)),
        joint=joint,
        silent=all(flags.is_silent(row) for row in rows),
        troubles=tuple(dict.fromkeys(flags.kind(row) for row in rows)),
    )
