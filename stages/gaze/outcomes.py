"""What covering and pasting did, and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..contract import Stored, Subject
from ..numerics.statistics import wilson
from ..specs import Finding
from .grids import place_name

# Images named in a finding.
_EXAMPLES = 12


@dataclass(frozen=True)
class Outcome:
    """One candidate, with every border cell tried.

    Parameters
    ----------
    row, label, group
        Its row among the candidates, its class, and which of its groups (-1 for the whole class).
    suspected
        Border cell from which the heatmaps draw their evidence.
    confirmed
        Border cell by which the network recognises the class; -1 for none.
    makes
        Whether pasting the suspected cell alone makes the class, beyond chance.
    covered, pasted
        Images of the class, and of others.
    lost, won
        For each border cell, how many of these lost, and became, the class.
    images_lost, images_won
        Positions of those that did so in the confirmed cell, else in the suspected one.
    """

    row: int
    label: int
    group: int
    suspected: int
    confirmed: int
    makes: bool
    covered: int
    pasted: int
    lost: tuple[int, ...]
    won: tuple[int, ...]
    images_lost: tuple[int, ...]
    images_won: tuple[int, ...]

    @property
    def shown(self) -> int:
        """The cell to speak of: the confirmed one, else the suspected one."""
        return self.confirmed if self.confirmed >= 0 else self.suspected


def outcome(row: int, stored: Stored, answers: Mapping[str, np.ndarray], effect: float) -> Outcome:
    """Count what the network answered for one candidate.

    Parameters
    ----------
    row
        The candidate.
    stored
        Where the candidates lie.
    answers
        ``candidate``, ``pasting``, ``position`` and ``answer`` (one per border cell) of every image tried.
    effect
        Share of images that has to change.
    """
    label = int(np.asarray(stored["gaze/shortcuts/class"][:])[row])
    cells = np.asarray(stored["gaze/shortcuts/border_cell"][:])
    suspected = int(np.flatnonzero((cells == np.asarray(stored["gaze/shortcuts/cell"][:])[row]).all(axis=1))[0])
    own = (answers["candidate"] == row) & ~answers["pasting"]
    other = (answers["candidate"] == row) & answers["pasting"]
    # No answer at all is neither the class lost to another nor the class made.
    loses = (answers["answer"][own] != label) & (answers["answer"][own] >= 0)
    wins = answers["answer"][other] == label
    lost, won = loses.sum(axis=0), wins.sum(axis=0)
    confirmed = confirmed_cell(lost, len(loses), won, len(wins), suspected, cells, effect)
    shown = confirmed if confirmed >= 0 else suspected
    return Outcome(
        row=row,
        label=label,
        group=int(np.asarray(stored["gaze/shortcuts/group"][:])[row]),
        suspected=suspected,
        confirmed=confirmed,
        makes=beyond(won, len(wins), suspected, effect),
        covered=len(loses),
        pasted=len(wins),
        lost=tuple(map(int, lost)),
        won=tuple(map(int, won)),
        images_lost=tuple(answers["position"][own][loses[:, shown]].tolist()),
        images_won=tuple(answers["position"][other][wins[:, shown]].tolist()),
    )


def confirmed_cell(
    lost: np.ndarray, covered: int, won: np.ndarray, pasted: int, suspected: int, cells: np.ndarray, effect: float
) -> int:
    """The border cell by which a class is recognised; -1 for none.

    The suspected cell comes first; else the touching cell with the larger effect, since heatmaps are as coarse as the
    receptive fields of their layer.

    Parameters
    ----------
    lost, won
        Images that changed, for each border cell.
    covered, pasted
        Of how many.
    suspected
        Cell in which the heatmaps lie.
    cells
        Border cells along each axis, ``(cell, axis)``.
    effect
        Share of images that has to change.
    """
    if not covered or not pasted:
        return -1
    touching = np.flatnonzero(np.abs(cells - cells[suspected]).max(axis=1) <= 1)
    weaker = np.minimum(lost / covered, won / pasted)
    for cell in sorted(map(int, touching), key=lambda cell: (cell != suspected, -weaker[cell], cell)):
        if beyond(lost, covered, cell, effect) and beyond(won, pasted, cell, effect):
            return cell
    return -1


def beyond(counts: np.ndarray, n: int, cell: int, effect: float) -> bool:
    """Whether enough images change in a cell, and more, beyond chance, than in the median of the other border cells.

    Parameters
    ----------
    counts
        Images that changed, for each border cell.
    n
        Of how many.
    cell
        The cell.
    effect
        Share of images that has to change.
    """
    if not n:
        return False
    low, _ = wilson(int(counts[cell]), n, 1 - 0.05 / len(counts))
    return counts[cell] / n >= effect and low > np.median(np.delete(counts, cell)) / n


def finding(found: Outcome, subject: Subject, stored: Stored, grid: Sequence[int]) -> Finding:
    """Say what was found: an error where the network falls for it, a warning where it only lets itself be led."""
    cells = np.asarray(stored["gaze/shortcuts/border_cell"][:])
    name = subject.class_names[found.label]
    place = place_name(cells[found.shown], grid)
    where = f"{'in' if len(grid) > 1 else 'at'} the {place}"
    tried = _tried(found, subject, stored, place_name(cells[found.suspected], grid))
    if found.confirmed < 0 and found.makes:
        return Finding(
            "gaze/shortcut-made",
            "warning",
            f"What lies {where} makes other images class {name}, though the class does without it",
            f"{tried} What next: look at what lies there in the images of this class and in no others; the class is "
            "recognised by more than that, but not by that alone.",
            found.images_lost[:_EXAMPLES] or found.images_won[:_EXAMPLES],
        )
    if found.confirmed < 0:
        return Finding(
            "gaze/shortcut-suspected",
            "info",
            f"Class {name} draws its evidence from the {place}, but no other image becomes it by that",
            f"{tried} What next: look at the heatmaps of the class. The object itself may lie there; a cue that is "
            "spread wider than one cell is not caught by this trial.",
            found.images_lost[:_EXAMPLES],
        )
    return Finding(
        "gaze/shortcut",
        "error",
        f"{'Class' if found.group < 0 else 'Part of class'} {name} is recognised by what lies {where}",
        f"{tried} What next: look at what lies there (a watermark, a tag, a frame); remove it from the data or add it "
        "to all classes, and train again. The accuracy of this class says nothing about images without it.",
        found.images_lost[:_EXAMPLES],
    )


def _tried(found: Outcome, subject: Subject, stored: Stored, drawn: str) -> str:
    """What was tried, what came of it, and what the heatmaps had shown."""
    cell, name = found.shown, subject.class_names[found.label]
    box = np.asarray(stored["gaze/shortcuts/box"][:])[cell]
    pixels = ", ".join(f"{axis} {a} to {b - 1}" for axis, (a, b) in zip(subject.axes, box, strict=True))
    share, rest = (float(np.asarray(stored[f"gaze/shortcuts/{column}"][:])[found.row]) for column in ("share", "rest"))
    return (
        f"Covering it (pixels {pixels}) loses the class in {found.lost[cell]} of {found.covered} images, pasting it "
        f"onto other classes turns {found.won[cell]} of {found.pasted} into {name}; in the median border cell it is "
        f"{_usual(found.lost, cell)} and {_usual(found.won, cell)}. The heatmaps {_whose(found, stored)}draw "
        f"{share:.0%} of their evidence from the {drawn}, those of the other classes {rest:.1%}."
    )


def _whose(found: Outcome, stored: Stored) -> str:
    """Say of how many images a group consists; empty for a whole class."""
    if found.group < 0:
        return ""
    sizes = np.asarray(stored["gaze/clusters/size"][:])[found.label]
    return f"of {sizes[found.group]} of {sizes.sum()} of its images, a group of their own, "


def _usual(counts: Sequence[int], cell: int) -> str:
    return f"{np.median(np.delete(counts, cell)):g}"
