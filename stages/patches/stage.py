"""What excites single channels most: patches of the images, and the units that saw them projected back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Ask, Partial, ReluRule, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, SizedArray, Summary
from .choice import by_shard
from .gathering import Gathered
from .plan import Plan, Wanted
from .projections import shown
from .stimuli import first_convolution, likeness

if TYPE_CHECKING:
    from ..network.batch import Batch

_ROW = ("patch", "rank")
CHANNEL = ArraySpec("{layer}/channel", ("patch",), "int32", "1", "Channel that is shown; -1: row not used.")
FIELD = ArraySpec(
    "{layer}/field", _ROW, "int8", "code", "Receptive field: 0 exact, 1 whole image, 2 unknown; -1: nothing is shown."
)
SPAN = ArraySpec(
    "{layer}/span", (*_ROW, "axis", "end"), "int32", "pixel",
    "First pixel shown and the one after the last; may lie outside of the image.",
)  # fmt: skip
SIZE = ArraySpec(
    "{layer}/size", (*_ROW, "axis"), "int16", "pixel", "How much of the crop's and projection's array is used."
)
CROP = ArraySpec(
    "{layer}/crop", (*_ROW, "channel", "y", "x"), "uint8", "1/255",
    "De-normalised network input there, scaled down; beyond the image what the network's zero looks like.",
)  # fmt: skip
SIGNAL = ArraySpec("{layer}/signal", (*_ROW, "channel", "time"), "float32", "input", "The same for a signal.")
PROJECTION = ArraySpec(
    "{layer}/projection", (*_ROW, "rule", "channel", "*space"), "uint8", "peak/127",
    "The unit projected back by each of the notes' rules, plus 128.",
)  # fmt: skip
PEAK = ArraySpec(
    "{layer}/peak",
    (*_ROW, "rule"),
    "float32",
    "activation per network input",
    "Largest magnitude of the projection; where that is not finite, neither is the projection.",
)
CLASS = ArraySpec(
    "{layer}/class", ("channel",), "int32", "class", "Class that the most exciting images prefer; -1: none is labelled."
)
SHARE = ArraySpec("{layer}/class_share", ("channel",), "float64", "1", "Its share of those that are labelled.")
COUNT = ArraySpec("{layer}/class_n", ("channel",), "int64", "images", "How many of them are labelled.")
CHANCE = ArraySpec(
    "{layer}/chance", ("channel",), "float64", "1", "Probability that chance alone would prefer some class as much."
)
COSINE = ArraySpec(
    "{layer}/cosine", ("channel", "rank"), "float64", "1",
    "Of the first convolution: cosine of the filter and each of its patches, neither centred.",
)  # fmt: skip


@dataclass(frozen=True)
class Patches(SoleLeaf):
    """Patches of the images that excite single channels most, with that very unit projected back (zeiler2014, fig. 2).

    The images and positions are those that the stage `activations` has found for every channel; crops and projections
    are made for some of them. A projection is positively homogeneous, so that it starts from 1 and not from the
    activation. Class selectivity is worked out for all channels.

    Parameters
    ----------
    layers
        Layer selectors; None for every ReLU, in a network without one every convolution.
    channels
        Most channels of a layer: those asked for by name, those with findings, then the most class-selective.
    total
        Most channels over all layers, cut as evenly as their sizes allow; with fewer than there are layers, some layers
        spread over the depth get one each.
    always
        Channels that come first, each as ``"<layer selector>:3,5-9"``.
    rank
        Images per channel.
    side, samples
        Longest side of a stored crop, in pixels of a picture, in samples of a signal.
    rules
        How projections pass ReLUs; none for crops alone.
    """

    layers: tuple[str, ...] | None = None
    channels: int = 64
    total: int = 512
    always: tuple[str, ...] = ()
    rank: int = 9
    side: int = 64
    samples: int = 256
    rules: tuple[ReluRule, ...] = ("deconvnet", "guided")

    name: ClassVar[str] = "patches"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (
        CHANNEL, FIELD, SPAN, SIZE, CROP, SIGNAL, PROJECTION, PEAK, CLASS, SHARE, COUNT, CHANCE, COSINE,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for key, least in (("channels", 1), ("total", 1), ("rank", 1), ("side", 4), ("samples", 4)):
            if getattr(self, key) < least:
                raise ConfigError(f"patches.{key}: expected {least} or more, got {getattr(self, key)}")
        if len(set(self.rules)) < len(self.rules):
            raise ConfigError(f"patches.rules: expected each rule once, got {list(self.rules)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Which images excite what where, what is seen of them, what was found, who makes whom, and what is usable."""
        return ("activations", "receptive_fields/theoretical", "filters", "weights", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """As many rows as the budget allows, of the largest crop that may be stored."""
        space, rules = subject.input_shape[1:], len(self._projected(subject))
        frame = (subject.input_shape[0], *(self._longest(subject),) * len(space))
        sized = []
        for layer, n in zip(self._wanted.chosen(subject), self._wanted.quotas(subject), strict=True):
            if not n:
                continue
            row = (n, self.rank)
            axes = (*row, len(space))
            shapes = {CHANNEL: (n,), FIELD: row, SPAN: (*axes, 2), SIZE: axes}
            shapes |= {CROP if len(space) == 2 else SIGNAL: (*row, *frame)}
            shapes |= {PROJECTION: (*row, rules, *frame), PEAK: (*row, rules)} if rules else {}
            sized += [spec.sized(shape, subject.axes, layer=layer.name) for spec, shape in shapes.items()]
        for layer in subject.layers:
            if layer.kind in ("conv", "relu"):
                sized += [spec.sized((layer.shape[0],), layer=layer.name) for spec in (CLASS, SHARE, COUNT, CHANCE)]
        stem = first_convolution(subject)
        return (*sized, COSINE.sized((stem.shape[0], self.rank), layer=stem.name))

    def asks(self, subject: Subject) -> Ask:
        """The images alone; the network is run again on those of them that are needed."""
        del subject
        return Ask(logits=False)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One for the images of each shard that are needed."""
        plan = Plan(self._wanted, subject, stored)
        return [
            Task(self.name, images, argument={"units": units, "stem": stem})
            for images, units, stem in by_shard(plan.units, plan.stem, subject)
        ]

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Cut out and project back the units of these images."""
        units, stem = task.argument["units"], task.argument["stem"]
        drawn = shown(batch, units, self._projected(subject), subject, self._longest(subject))
        return Result(partial=drawn | likeness(batch, first_convolution(subject), stem))

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the units."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Put every unit into its place, and say what is shown."""
        gathered = Gathered(Plan(self._wanted, subject, stored), self.writes(subject), self._projected(subject))
        for part in partials:
            gathered.add(part)
        return gathered.summary()

    @property
    def _wanted(self) -> Wanted:
        return Wanted(self.layers, self.channels, self.total, self.always, self.rank)

    def _projected(self, subject: Subject) -> tuple[ReluRule, ...]:
        """The rules; none in a network without a ReLU, where they say nothing."""
        return self.rules if any(layer.kind == "relu" for layer in subject.layers) else ()

    def _longest(self, subject: Subject) -> int:
        space = subject.input_shape[1:]
        return min(self.side if len(space) == 2 else self.samples, max(space))
