"""Classes that draw their evidence from one place at the border of the image, unlike the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .grids import border, pooled


@dataclass(frozen=True)
class Limits:
    """What a class has to exceed to be suspected of a shortcut.

    Parameters
    ----------
    share
        Share of its evidence in one border cell.
    ratio
        That share over the mean of the other classes in the same cell.
    deviations
        That share minus this mean, in standard deviations of the other classes; not asked where there are fewer than
        three others.
    images
        Right images of the class.
    """

    share: float
    ratio: float
    deviations: float
    images: int


@dataclass(frozen=True)
class Candidate:
    """A class that draws its evidence from one border cell.

    Parameters
    ----------
    label
        The class.
    cell
        The cell, along each axis of the coarse grid.
    share, rest
        Share of the evidence there: of the class, and mean of the other classes.
    deviations
        Their difference in standard deviations of the other classes; NaN for fewer than three others.
    """

    label: int
    cell: tuple[int, ...]
    share: float
    rest: float
    deviations: float

    @property
    def ratio(self) -> float:
        """Share over that of the others; infinite where they have none."""
        return self.share / self.rest if self.rest > 0 else math.inf


def border_cells(grid: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cells of the outer ring, row by row."""
    return tuple(tuple(map(int, cell)) for cell in np.argwhere(border(grid)))


def suspects(
    heatmap: Float[np.ndarray, "class ..."], n: Int[np.ndarray, " class"], grid: Sequence[int], limits: Limits
) -> tuple[Candidate, ...]:
    """Find classes that stand out in a border cell.

    Parameters
    ----------
    heatmap
        Mean shares of each class; NaN for a class without images.
    n
        Images behind each of them.
    grid
        Coarse grid on which they are compared.
    limits
        What counts as standing out.

    Returns
    -------
    tuple of Candidate
        The cell of the largest share for each such class, largest excess over the others first.
    """
    seen = np.flatnonzero(n > 0)
    coarse = pooled(heatmap[seen], grid)
    cells = border_cells(grid)
    shares = np.array([coarse[(slice(None), *cell)] for cell in cells]).T
    found = []
    for row, label in enumerate(seen):
        others = np.delete(shares, row, axis=0)
        if n[label] < limits.images or not len(others):
            continue
        best = int(np.argmax(shares[row] - others.mean(axis=0)))
        candidate = _candidate(int(label), cells[best], shares[row, best], others[:, best])
        if _stands_out(candidate, limits):
            found.append(candidate)
    return tuple(sorted(found, key=lambda one: (one.rest - one.share, one.label)))


def _candidate(label: int, cell: tuple[int, ...], share: float, others: np.ndarray) -> Candidate:
    rest, deviations = float(others.mean()), math.nan
    if len(others) >= 3:
        spread = float(others.std(ddof=1))
        deviations = (float(share) - rest) / spread if spread > 0 else math.inf
    return Candidate(label, cell, float(share), rest, deviations)


def _stands_out(candidate: Candidate, limits: Limits) -> bool:
    enough = candidate.share >= limits.share and candidate.ratio >= limits.ratio
    return enough and not candidate.deviations < limits.deviations
