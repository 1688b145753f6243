"""Whether the network falls for it: candidates for a shortcut, tried on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Result, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from .outcomes import Outcome, finding, outcome
from .patches import by_shard, other_images, own_images, tried_candidates
from .shortcuts import ShortcutsLeaf
from .trials import covered, pasted

if TYPE_CHECKING:
    from ..network.batch import Batch

COVERED = ArraySpec("covered", ("candidate",), "int64", "images", "Right images of the class, each covered in turn.")
LOST = ArraySpec("lost", ("candidate", "cell"), "int64", "images", "Those that lose the class with that cell covered.")
PASTED = ArraySpec(
    "pasted", ("candidate",), "int64", "images", "Right images of other classes, each pasted on in turn."
)
WON = ArraySpec(
    "won", ("candidate", "cell"), "int64", "images", "Those that become the class with its mean content of that cell."
)
CONFIRMED = ArraySpec(
    "confirmed", ("candidate",), "int32", "cell", "Border cell by which the class is recognised; -1: not confirmed."
)
_KEYS = ("candidate", "pasting", "position", "answer")


@dataclass(frozen=True)
class ConfirmationLeaf(Leaf):
    """Candidates for a shortcut with each border cell covered, and pasted onto images of other classes.

    All border cells are tried in the same way: those away from the candidate's are the control.

    Parameters
    ----------
    shortcuts
        Where candidates come from.
    images, others
        Images of the class, and of other classes, at most.
    effect
        Share of images that has to change for a shortcut.
    """

    shortcuts: ShortcutsLeaf
    images: int
    others: int
    effect: float

    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (COVERED, LOST, PASTED, WON, CONFIRMED)

    def __post_init__(self) -> None:
        if min(self.images, self.others) < 1:
            raise ConfigError(f"gaze.images, gaze.others: expected 1 or more, got {self.images} and {self.others}")
        if not 0 < self.effect <= 1:
            raise ConfigError(f"gaze.effect: expected a share above 0, at most 1, got {self.effect}")

    @property
    def name(self) -> str:
        """Stage and part."""
        return "gaze/confirmation"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """The candidates, what they have in common, and what was answered."""
        return ("gaze/clusters", "gaze/shortcuts", "gaze/patches", "predictions")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Counts per candidate and border cell."""
        _, cells = self.shortcuts.writes(subject)[-2:]
        most = self.shortcuts.most
        table = (LOST.sized((most, cells.shape[0])), WON.sized((most, cells.shape[0])))
        return (COVERED.sized((most,)), PASTED.sized((most,)), *table, CONFIRMED.sized((most,)))

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """Two per candidate and shard: its own images covered, others pasted onto."""
        # One array for all tasks, so that it is pickled once.
        boxes = np.asarray(stored["gaze/shortcuts/box"][:])
        found = []
        for row, label, group in tried_candidates(stored):
            mean = np.asarray(stored["gaze/patches/mean"][row])
            argument = {"candidate": row, "boxes": boxes, "mean": mean}
            for pasting, images in (
                (False, own_images(subject, stored, label, group, self.images)),
                (True, other_images(subject, stored, label, self.others)),
            ):
                found += [
                    Task(self.name, part, start=part[0], argument={**argument, "pasting": pasting})
                    for part in by_shard(subject, images)
                ]
        return found

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Note what is answered with each border cell changed."""
        import torch

        del subject
        images, pasting = batch.images, task.argument["pasting"]
        mean = torch.from_numpy(task.argument["mean"])
        answers = []
        for sides in task.argument["boxes"]:
            box = tuple((int(first), int(last)) for first, last in sides)
            changed = pasted(images, mean, box) if pasting else covered(images, box)
            logit = batch.call(changed).float().cpu().numpy()
            # As in predictions: the lowest of equal classes, none where a logit is not finite.
            answers.append(np.where(np.isfinite(logit).all(axis=1), logit.argmax(axis=1), -1))
        valid, n = np.asarray(batch.valid, bool), len(batch)
        rows = {
            "candidate": np.full(n, task.argument["candidate"], np.int64),
            "pasting": np.full(n, pasting),
            "position": np.asarray(batch.positions, np.int64),
            "answer": np.stack(answers, axis=1).astype(np.int64),
        }
        return Result(partial={key: values[valid] for key, values in rows.items()})

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the lists."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Count, hold against the other cells, and say what was found."""
        table = {array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in self.writes(subject)}
        outcomes = []
        if partials:
            answers = {key: np.concatenate([part[key] for part in partials]) for key in _KEYS}
            outcomes = [outcome(row, stored, answers, self.effect) for row, _, _ in tried_candidates(stored)]
        for found in outcomes:
            table["covered"][found.row], table["pasted"][found.row] = found.covered, found.pasted
            table["lost"][found.row], table["won"][found.row] = found.lost, found.won
            table["confirmed"][found.row] = found.confirmed
        grid = self.shortcuts.grid(subject)
        # A group is an extreme of its class by construction: it says nothing unless the network falls for it.
        told = [found for found in outcomes if found.confirmed >= 0 or found.makes or found.group < 0]
        findings = tuple(finding(found, subject, stored, grid) for found in told)
        compared = int(stored.summary("gaze/shortcuts").notes.get("compared_classes", 0))
        return Summary(table, _measured(outcomes, compared), findings, self._notes(outcomes, compared))

    def _notes(self, outcomes: Sequence[Outcome], compared: int) -> dict[str, Any]:
        few = f"no class has {self.shortcuts.limits.images} right images, too few for a mean heatmap"
        return {
            "status": "measured" if outcomes else "nothing to try",
            "not_applicable": {} if compared else {"gaze/shortcuts": few},
            "lost": {str(found.row): list(found.images_lost) for found in outcomes},
            "won": {str(found.row): list(found.images_won) for found in outcomes},
            "definition": f"Confirmed where covering the cell loses the class and pasting it onto others makes it, in "
            f"at least {self.effect:g} of the images each, and beyond chance (Wilson's 95 % bound, by Bonferroni for "
            "all border cells) more often than in the median border cell. Covered: mean of the image's outermost "
            "pixels; pasted: mean of the class's images.",
        }


def _measured(outcomes: Sequence[Outcome], compared: int) -> tuple[Measurement, ...]:
    """Nothing where no class could be compared: too few images are no fault of the network."""
    if not compared:
        return ()
    return (
        Measurement(
            "gaze/shortcuts",
            float(len({found.label for found in outcomes if found.confirmed >= 0})),
            "1",
            "lower",
            compared,
            "gaze/confirmation/confirmed",
            "Classes recognised by one place at the border: covering it loses the class, pasting it makes the class.",
        ),
    )
