"""What is shown of a network: layers, channels, units, in one order that tasks and `finish` agree on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..contract import Stored, Subject
from ..selectors import select_layers
from ..specs import LayerSpec
from .choice import Place, Stimulus, Tops, asked_channels, chosen_channels, default_layers, places, quotas
from .stimuli import first_convolution
from .tops import TopReader


@dataclass(frozen=True)
class Wanted:
    """The settings that choose.

    Parameters
    ----------
    layers
        Layer selectors; None for every ReLU, in a network without one every convolution.
    channels, total
        Most channels of a layer, and over all layers.
    always
        Channels asked for by name.
    rank
        Images per channel.
    """

    layers: tuple[str, ...] | None
    channels: int
    total: int
    always: tuple[str, ...]
    rank: int

    def chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        """The layers, in the order of the forward pass."""
        return select_layers(self.layers or default_layers(subject.layers), subject.layers)

    def quotas(self, subject: Subject) -> tuple[int, ...]:
        """Most channels of each of them."""
        layers = self.chosen(subject)
        asked = asked_channels(self.always, layers)
        named = [len(asked.get(layer.name, ())) for layer in layers]
        return quotas([layer.shape[0] for layer in layers], self.channels, self.total, named)


class Plan:
    """What is shown.

    Parameters
    ----------
    wanted
        The settings.
    subject
        What is audited.
    stored
        What excites each channel, its receptive field, and what was found of it.
    """

    def __init__(self, wanted: Wanted, subject: Subject, stored: Stored) -> None:
        self.wanted, self.subject = wanted, subject
        self._read = TopReader(stored, subject, wanted.rank)
        layers = wanted.chosen(subject)
        self.tops: tuple[Tops, ...] = tuple(self._read(layer) for layer in layers)
        self.asked = asked_channels(wanted.always, layers)
        self.channels: tuple[tuple[int, ...], ...] = tuple(
            chosen_channels(tops, quota, self.asked.get(tops.layer.name, ()))
            for tops, quota in zip(self.tops, wanted.quotas(subject), strict=True)
        )

    @cached_property
    def units(self) -> tuple[Place, ...]:
        """Every unit that is cut out and projected back."""
        pairs = zip(self.tops, self.channels, strict=True)
        return tuple(
            place
            for at, (tops, channels) in enumerate(pairs)
            for place in places(at, tops, channels, self.wanted.rank, self.subject)
        )

    @cached_property
    def stem(self) -> tuple[Stimulus, ...]:
        """Rank, ``(channel, *position)`` and image of what excites the first convolution; none where not stored."""
        layer = first_convolution(self.subject)
        if not self._read.knows(layer):
            return ()
        tops = self._read(layer)
        return tuple(
            (rank, (channel, *map(int, tops.position[channel, rank])), int(tops.image[channel, rank]))
            for channel, shows in enumerate(tops.shows)
            for rank in shows.nonzero()[0].tolist()
        )

    def known(self) -> dict[str, Tops]:
        """Every layer whose most exciting images are stored, by name."""
        chosen = {tops.layer.name: tops for tops in self.tops}
        return {
            layer.name: chosen.get(layer.name) or self._read(layer)
            for layer in self.subject.layers
            if self._read.knows(layer)
        }
