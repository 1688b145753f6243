"""Which class wins while a part of the image is covered, as a few patches with colours and letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

#: Classes with a letter and a colour of their own in one picture; all others share a last one.
NAMED = 3


@dataclass(frozen=True)
class Patch:
    """Where one class wins.

    Parameters
    ----------
    wins
        The class; -1 where there are several.
    letter
        What stands for it.
    role
        Its colour: 0 for the class that wins most often besides the prediction, and so on.
    d
        Path of its cells.
    x, y
        Middle of the cell that bears the letter.
    """

    wins: int
    letter: str
    role: int
    d: str
    x: float
    y: float


def cell_edges(start: Sequence[int], end: Sequence[int], length: int, size: float) -> np.ndarray:
    """Borders between windows that overlap: halfway between their middles; the first and the last reach the border.

    Parameters
    ----------
    start, end
        Of the windows along one axis, in pixels of the input.
    length
        Of that axis.
    size
        Of the picture along that axis, in which the borders are given.
    """
    middle = (np.asarray(start, float) + np.asarray(end, float)) / 2
    return np.concatenate([[0.0], (middle[1:] + middle[:-1]) / 2, [float(length)]]) * (size / length)


def patches(
    winners: Int[np.ndarray, "y x"], edges: tuple[np.ndarray, np.ndarray], prediction: int
) -> tuple[Patch, ...]:
    """Draw where another class than the prediction wins, the most frequent of them first.

    Parameters
    ----------
    winners
        Class that wins while each window is covered; -1 where it is not known.
    edges
        Borders of the cells down and across, in units of the picture.
    prediction
        Class that wins while nothing is covered.
    """
    known, count = np.unique(winners[(winners >= 0) & (winners != prediction)], return_counts=True)
    ranked = [int(known[place]) for place in np.lexsort((known, -count))]
    named = ranked if len(ranked) <= NAMED + 1 else ranked[:NAMED]
    groups = [(wins, winners == wins) for wins in named]
    if len(named) < len(ranked):
        groups.append((-1, np.isin(winners, ranked[NAMED:])))
    return tuple(_patch(wins, role, inside, edges) for role, (wins, inside) in enumerate(groups))


def _patch(wins: int, role: int, inside: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> Patch:
    down, across = edges
    row, column = _deepest(inside)
    rows = []
    for at, flags in enumerate(inside):
        turns = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
        for start, stop in turns.reshape(-1, 2):
            left, right = f"{across[start]:.4g}", f"{across[stop]:.4g}"
            rows.append(f"M{left} {down[at]:.4g}H{right}V{down[at + 1]:.4g}H{left}z")
    return Patch(
        wins, "+" if wins < 0 else "ABCD"[role], role, "".join(rows), _middle(across, column), _middle(down, row)
    )


def _deepest(inside: np.ndarray) -> tuple[int, int]:
    """Cell with the most of its kind around it, where a letter hides least; the first of several."""
    around = np.pad(inside.astype(float), 2)
    window = np.lib.stride_tricks.sliding_window_view(around, (5, 5)).sum(axis=(2, 3))
    y, x = np.unravel_index(np.where(inside, window, -1).argmax(), inside.shape)
    return int(y), int(x)


def _middle(edges: np.ndarray, place: int) -> float:
    return float(edges[place] + edges[place + 1]) / 2
