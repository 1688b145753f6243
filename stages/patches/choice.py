"""Which channels get patches and projections, and which units these are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..contract import Subject
from ..errors import ConfigError
from ..receptive_fields.boxes import STATUS, Group, Span, group_of
from ..selectors import select_layers
from ..specs import LayerSpec
from .crops import extent
from .selectivity import Selectivity


@dataclass(frozen=True)
class Tops:
    """The images that excite each channel of a layer most.

    Parameters
    ----------
    layer
        The layer.
    value, image
        Best first; -1 for no image. Shape ``(channel, rank)``.
    position
        Of the value along the layer's spatial axes. Shape ``(channel, rank, axis)``.
    flagged
        Whether the audit of filters has found something. Shape ``(channel,)``.
    selectivity
        Which class they belong to.
    groups
        Receptive fields of its channels; none where nothing is known.
    """

    layer: LayerSpec
    value: np.ndarray
    image: np.ndarray
    position: np.ndarray
    flagged: np.ndarray
    selectivity: Selectivity
    groups: Sequence[Group]

    @property
    def shows(self) -> np.ndarray:
        """Whether there is anything to show: behind a ReLU, what is above zero. Shape ``(channel, rank)``."""
        return fired(self.layer, self.value, self.image)


def fired(layer: LayerSpec, value: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Where a channel was excited at all: by an image, and behind a ReLU to more than zero."""
    known = (image >= 0) & np.isfinite(value)
    return known & (value > 0) if layer.kind == "relu" else known


@dataclass(frozen=True)
class Place:
    """One unit that is cut out and projected back.

    Parameters
    ----------
    row
        Place of its layer among the chosen ones, of its channel among that layer's, and its rank.
    layer
        Name of its layer.
    image
        Position of the image in the data set.
    unit
        ``(channel, *position)`` in the layer.
    spans
        What is shown, per axis, from the first pixel to the one after the last.
    field
        Code of what is known of its receptive field, in `convaudit.stages.receptive_fields.boxes.STATUS`.
    """

    row: tuple[int, int, int]
    layer: str
    image: int
    unit: tuple[int, ...]
    spans: tuple[Span, ...]
    field: int


def default_layers(layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    """Every ReLU; in a network without one, every convolution."""
    return ("kind:relu",) if any(layer.kind == "relu" for layer in layers) else ("kind:conv",)


def quotas(sizes: Sequence[int], per_layer: int, total: int, asked: Sequence[int]) -> tuple[int, ...]:
    """How many channels of each layer: those asked for by name, then as evenly as `total` allows.

    Parameters
    ----------
    sizes
        Channels of each layer.
    per_layer, total
        Most channels of a layer, and over all layers.
    asked
        How many channels of each layer are asked for by name.

    Returns
    -------
    tuple
        Where `total` does not give one to each layer, those that get one are spread evenly over the depth.
    """
    most = [min(size, per_layer) for size in sizes]
    first = _filled([0] * len(most), [min(a, m) for a, m in zip(asked, most, strict=True)], total)
    return tuple(_filled(first, most, total))


def _filled(least: Sequence[int], most: Sequence[int], total: int) -> list[int]:
    """Raise the lowest numbers to one level, as far as their sum allows."""

    def raised(level: int) -> list[int]:
        return [max(low, min(high, level)) for low, high in zip(least, most, strict=True)]

    level = max(most, default=0)
    while level and sum(raised(level)) > total:
        level -= 1
    found = raised(level)
    empty = [] if level else [at for at, high in enumerate(most) if high and not found[at]]
    left = min(total - sum(found), len(empty))
    for turn in range(left):
        found[empty[(2 * turn + 1) * len(empty) // (2 * left)]] = 1
    return found


def asked_channels(always: Sequence[str], layers: Sequence[LayerSpec]) -> dict[str, tuple[int, ...]]:
    """Channels that are asked for by name, by layer.

    Parameters
    ----------
    always
        Each a layer selector, a colon, and channels: ``"layer1.0.relu#1:3,5-9"``.
    layers
        The layers that may be named.

    Raises
    ------
    ConfigError
        When one does not read like that, or there is no such layer or channel.
    """
    found: dict[str, dict[int, None]] = {}
    for text in always:
        selector, colon, numbers = text.rpartition(":")
        if not colon:
            raise ConfigError(f"patches.always: expected '<layer>:<channels>' as in 'conv1:3,5-9', got {text!r}")
        for layer in select_layers((selector,), layers):
            for channel in _numbers(text, numbers):
                if channel >= layer.shape[0]:
                    raise ConfigError(f"patches.always: {text!r}: {layer.name} has channels 0 to {layer.shape[0] - 1}")
                found.setdefault(layer.name, {})[channel] = None
    return {name: tuple(channels) for name, channels in found.items()}


def _numbers(text: str, numbers: str) -> list[int]:
    found: list[int] = []
    for part in numbers.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"patches.always: expected channels as in '3,5-9' after the colon, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    return found


def chosen_channels(tops: Tops, quota: int, asked: Sequence[int]) -> tuple[int, ...]:
    """The channels of one layer: those asked for, then those with findings, then by class selectivity.

    Channels that nothing excites take no place.
    """
    alive = np.asarray(tops.shows.any(1))
    first = np.full(len(alive), len(asked))
    first[list(asked)] = np.arange(len(asked))
    chance = np.where(np.isnan(tops.selectivity.chance), 2.0, tops.selectivity.chance)
    share = np.nan_to_num(tops.selectivity.share)
    order = np.lexsort((np.arange(len(alive)), -share, chance, ~tops.flagged, first))
    return tuple(int(channel) for channel in order if alive[channel])[:quota]


def places(at: int, tops: Tops, channels: Sequence[int], ranks: int, subject: Subject) -> list[Place]:
    """The units of one layer that are shown.

    Parameters
    ----------
    at
        Place of the layer among the chosen ones.
    tops, channels
        The layer and its channels.
    ranks
        Images per channel.
    subject
        What is audited.
    """
    found, shows = [], tops.shows
    for slot, channel in enumerate(channels):
        group = group_of(tops.groups, channel) if tops.groups else None
        field = STATUS.index("unknown" if group is None else group["status"])
        for rank in range(ranks):
            if not shows[channel, rank]:
                continue
            position = tuple(int(cell) for cell in tops.position[channel, rank])
            found.append(
                Place(
                    row=(at, slot, rank),
                    layer=tops.layer.name,
                    image=int(tops.image[channel, rank]),
                    unit=(channel, *position),
                    spans=extent(group, position, subject.input_shape[1:]),
                    field=field,
                )
            )
    return found


#: Rank, ``(channel, *position)`` and image of a unit of the first convolution.
Stimulus = tuple[int, tuple[int, ...], int]
#: The images of a shard that are needed, with what is wanted of them.
Part = tuple[tuple[int, ...], tuple[Place, ...], tuple[Stimulus, ...]]


def by_shard(found: Sequence[Place], stem: Sequence[Stimulus], subject: Subject) -> list[Part]:
    """Split units by the shard of their images, in the order of the data set."""
    parts: dict[int, tuple[set[int], list[Place], list[Stimulus]]] = {}
    for place in found:
        part = parts.setdefault(place.image // subject.shard, (set(), [], []))
        part[0].add(place.image)
        part[1].append(place)
    for stimulus in stem:
        part = parts.setdefault(stimulus[2] // subject.shard, (set(), [], []))
        part[0].add(stimulus[2])
        part[2].append(stimulus)
    return [
        (tuple(sorted(images)), tuple(units), tuple(stimuli)) for _, (images, units, stimuli) in sorted(parts.items())
    ]
