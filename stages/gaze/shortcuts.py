"""Which classes may be recognised by something at the border of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..contract import Leaf, Partial, Stored, Subject, Task, settings
from ..errors import ConfigError
from ..specs import ArraySpec, Measurement, SizedArray, Summary
from .candidates import Limits, border_cells, suspects
from .grids import boxes, coarser
from .sources import Source

LABEL = ArraySpec("class", ("candidate",), "int32", "class", "Class that draws its evidence from there; -1: not used.")
GROUP = ArraySpec(
    "group", ("candidate",), "int32", "1", "Group of heatmaps within the class that does so; -1: the whole class."
)
CELL = ArraySpec("cell", ("candidate", "axis"), "int32", "1", "Border cell, counted along each axis.")
SHARE = ArraySpec("share", ("candidate",), "float64", "1", "Share of the class's evidence in that cell.")
REST = ArraySpec("rest", ("candidate",), "float64", "1", "The same, mean over the other classes.")
DEVIATIONS = ArraySpec(
    "deviations", ("candidate",), "float64", "standard deviations", "Their difference, by those of the other classes."
)
BORDER_CELL = ArraySpec("border_cell", ("cell", "axis"), "int32", "1", "Every border cell, counted along each axis.")
BOX = ArraySpec(
    "box", ("cell", "axis", "side"), "int32", "pixels", "First and one past the last pixel of every border cell."
)


@dataclass(frozen=True)
class ShortcutsLeaf(Leaf):
    """Classes, or groups of heatmaps within one, that stand out against all other classes in one border cell.

    Parameters
    ----------
    source
        Heatmaps that were averaged.
    cells
        Cells along each axis of the grid on which classes are compared; its square for signals.
    most
        Candidates at most.
    limits
        What counts as standing out.
    """

    source: Source
    cells: int
    most: int
    limits: Limits

    documents: ClassVar[tuple[ArraySpec, ...]] = (LABEL, GROUP, CELL, SHARE, REST, DEVIATIONS, BORDER_CELL, BOX)

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ConfigError(f"gaze.shortcut_cells: expected 2 or more, got {self.cells}")
        if self.most < 1:
            raise ConfigError(f"gaze.candidates: expected 1 or more, got {self.most}")

    @property
    def name(self) -> str:
        """Stage and part."""
        return "gaze/shortcuts"

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return settings(self)

    @property
    def reads(self) -> tuple[str, ...]:
        """Mean heatmaps of classes, and of groups within them."""
        return ("gaze/classes", "gaze/clusters")

    def grid(self, subject: Subject) -> tuple[int, ...]:
        """Cells along each axis; of a signal their square, since a cell is to be the same share of the input."""
        cells = self.cells if len(subject.axes) > 1 else self.cells**2
        return tuple(min(cells, n) for n in self.source.grid(subject))

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """A table of candidates, and the border cells."""
        axes, n = len(subject.axes), len(border_cells(self.grid(subject)))
        single = tuple(spec.sized((self.most,)) for spec in (LABEL, GROUP, SHARE, REST, DEVIATIONS))
        cells = (BORDER_CELL.sized((n, axes)), BOX.sized((n, axes, 2)))
        return (*single, CELL.sized((self.most, axes)), *cells)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """No tasks: `finish` does it."""
        del subject, stored
        return []

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Compare the classes."""
        del partials
        grid, n_class = self.grid(subject), subject.n_class
        heatmap = np.asarray(stored["gaze/classes/heatmap"][:])[:n_class]
        n = np.asarray(stored["gaze/classes/n"][:])[:n_class]
        groups = np.asarray(stored["gaze/clusters/heatmap"][:], np.float64), np.asarray(stored["gaze/clusters/size"][:])
        found = suspects(heatmap, n, grid, self.limits, *groups)
        table = {array.path: np.full(array.shape, array.spec.fill, array.spec.dtype) for array in self.writes(subject)}
        for row, candidate in enumerate(found[: self.most]):
            table["class"][row], table["group"][row], table["cell"][row] = (
                candidate.label,
                candidate.group,
                candidate.cell,
            )
            table["share"][row], table["rest"][row] = candidate.share, candidate.rest
            table["deviations"][row] = candidate.deviations
        cells = border_cells(grid)
        edges = [np.asarray(edge) for edge in stored.summary("gaze/classes").notes["edges"]]
        places = boxes(coarser(edges, grid))
        table["border_cell"][:] = cells
        table["box"][:] = [places[cell] for cell in cells]
        compared = int((n >= self.limits.images).sum())
        return Summary(table, (_measured(len(found), compared),), (), self._notes(grid, len(found), compared))

    def _notes(self, grid: tuple[int, ...], found: int, compared: int) -> dict[str, Any]:
        limits = self.limits
        return {
            "status": "measured" if compared else "not applicable",
            "grid": list(grid),
            "candidates": found,
            "left_out": max(0, found - self.most),
            "compared_classes": compared,
            "definition": f"A class, or a group among its heatmaps, of at least {limits.images} right images with at "
            f"least {limits.share:g} of its evidence in one border cell, at least {limits.ratio:g} times and "
            f"{limits.deviations:g} standard deviations above the mean of the other classes there.",
        }


def _measured(found: int, compared: int) -> Measurement:
    return Measurement(
        "gaze/shortcut_candidates",
        float(found) if compared else float("nan"),
        "1",
        "lower",
        compared,
        "gaze/shortcuts/class",
        "Classes, or groups within one, that draw their evidence from one border cell, unlike others; not yet tried.",
    )
