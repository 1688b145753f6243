"""What happens to the answers when flagged channels are switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Ablate, Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, SizedArray, Summary
from .candidates import Choice, Flags, choose
from .effects import Effect, effect_of, findings, measurements, notes

if TYPE_CHECKING:
    from ..network.batch import Batch

LAYER = ArraySpec("layer", ("ablation",), "int32", "1", "Layer, as a position in the notes' layers; -1: row not used.")
CHANNEL = ArraySpec(
    "channel", ("ablation",), "int32", "1", "Channel that was off; -1: all channels of the layer that look idle."
)
ACCURACY = ArraySpec("accuracy", ("ablation",), "float64", "1", "Accuracy without it; NaN without labels.")
CHANGE = ArraySpec("change", ("ablation",), "float64", "1", "That accuracy minus the one with it, on the same images.")
FLIPPED = ArraySpec("flipped", ("ablation",), "int64", "images", "Images whose predicted class is another without it.")


@dataclass(frozen=True)
class Ablation(SoleLeaf):
    """Accuracy with the channels that the filter audit flags switched off.

    Each flagged channel by itself, and all of a layer together that look idle: dead, rare, dormant or near zero, but
    not those that say something, if little of their own. A channel of a convolution is switched off at the ReLU made of
    it, or else at the norm behind it, so that nothing is left. Behind a ReLU, one that never fires is zero already:
    switching it off by itself changes nothing, which is recorded without a run; together with its layer it is run, so
    that evidence and run are held against each other.

    Parameters
    ----------
    max_channels
        How many channels by themselves: one of each kind of trouble in turn, dead ones last.
    max_layers
        How many layers, in the order of the forward pass.
    max_images
        How many images, evenly spaced over the data set.
    """

    max_channels: int = 8
    max_layers: int = 4
    max_images: int = 1000

    name: ClassVar[str] = "ablation"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (LAYER, CHANNEL, ACCURACY, CHANGE, FLIPPED)

    def __post_init__(self) -> None:
        for key, least in (("max_channels", 0), ("max_layers", 0), ("max_images", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"ablation.{key}: expected {least} or more, got {getattr(self, key)}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What is flagged, and what the whole network answered."""
        return ("filters", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """As many rows as the caps allow; how many are used is known only when the flags are."""
        del subject
        return tuple(spec.sized((self.max_channels + self.max_layers,)) for spec in self.documents)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """One per case that has to be run and shard."""
        choice = self._choice(stored)
        return [
            Task(self.name, images, Ablate(case.layer, case.channels), images[0], {"row": case.row})
            for case in choice.cases
            if not case.by_evidence
            for images in sampled(subject, self.max_images)
        ]

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Note what is answered without the channels."""
        del subject
        valid = np.asarray(batch.valid, bool)
        logit = batch.logits.float().cpu().numpy()[valid]
        # As in predictions: the lowest of equal classes, none where a logit is not finite.
        predicted = np.where(np.isfinite(logit).all(axis=1), logit.argmax(axis=1), -1)
        position = np.asarray(batch.positions, np.int64)[valid]
        return Result(
            partial={
                "row": np.full(len(position), task.argument["row"], np.int64),
                "position": position,
                "predicted": predicted,
            }
        )

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the lists."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Hold the answers against those of the whole network."""
        choice = self._choice(stored)
        whole = np.asarray(stored["predictions/predicted"][:])
        margin = np.asarray(stored["predictions/margin"][:])
        images = np.array([image for part in sampled(subject, self.max_images) for image in part], np.int64)
        asked, images = len(images), images[whole[images] >= 0]
        answers = {
            key: np.concatenate([np.empty(0, np.int64), *(part[key] for part in partials)])
            for key in ("row", "position", "predicted")
        }
        effects = tuple(effect_of(case, answers, images, whole, subject.label, margin) for case in choice.cases)
        told = notes(choice, effects, len(images), asked, subject.n_image)
        return Summary(self._columns(subject, effects), measurements(effects), findings(effects), told)

    def _choice(self, stored: Stored) -> Choice:
        audit = stored.summary("filters").notes
        columns = {key: np.asarray(stored[f"filters/{key}"][:]) for key in ("layer", "channel", "trouble", "repeated")}
        flags = Flags(audit["layers"], audit["kinds"], audit["troubles"], audit["off_at"], **columns)
        return choose(flags, self.max_channels, self.max_layers)

    def _columns(self, subject: Subject, effects: Sequence[Effect]) -> dict[str, np.ndarray]:
        columns = {
            array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in self.writes(subject)
        }
        for effect in effects:
            row = effect.case.row
            columns["layer"][row] = effect.case.place
            columns["channel"][row] = -1 if effect.case.joint else effect.case.channels[0]
            columns["accuracy"][row], columns["change"][row] = effect.accuracy, effect.change
            columns["flipped"][row] = effect.flipped
        return columns


def sampled(subject: Subject, limit: int) -> list[range | tuple[int, ...]]:
    """Evenly spaced images, at most `limit`, shard by shard; whole shards where all of them are few enough."""
    if subject.n_image <= limit:
        return list(subject.shards())
    chosen = {i * subject.n_image // limit for i in range(limit)}
    parts = [tuple(image for image in shard if image in chosen) for shard in subject.shards()]
    return [part for part in parts if part]
