"""What the cells of a map see of the image along one axis, and what becomes of it from one map to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Taps:
    """Which cells of its input each cell of an operation looks at, along one axis; repeats itself.

    Parameters
    ----------
    step
        By how many cells of the input what is looked at moves from cell `u` to cell ``u + len(cells)``.
    cells
        Cells of the input that the first cells of the output look at; as if neither had an end.
    """

    step: int
    cells: tuple[tuple[int, ...], ...]


#: Each cell looks at its own.
SAME = Taps(1, ((0,),))


@dataclass(frozen=True)
class Reach:
    """Pixels that the cells of a map see along one axis, as if the image had no end; repeats itself.

    Cell ``u + turns * len(first)`` sees the pixels from ``first[u] + turns * step`` to ``last[u] + turns * step``, both
    included. One entry is the rule; a transposed convolution or an enlargement makes several.

    Parameters
    ----------
    step
        Pixels.
    first, last
        Of the first cells.
    """

    step: int
    first: tuple[int, ...]
    last: tuple[int, ...]

    @property
    def size(self) -> int:
        """Pixels that a cell sees, the most that any does."""
        return max(last - first + 1 for first, last in zip(self.first, self.last, strict=True))

    @property
    def stride(self) -> Fraction:
        """Pixels from one cell to the next, on average."""
        return Fraction(self.step, len(self.first))

    @property
    def centre(self) -> Fraction:
        """Middle of what cell 0 sees, on average over the cells that repeat; 0 is the middle of the first pixel."""
        middles = [Fraction(first + last, 2) for first, last in zip(self.first, self.last, strict=True)]
        return sum((middle - u * self.stride for u, middle in enumerate(middles)), Fraction(0)) / len(middles)

    def first_of(self, cell: int) -> int:
        """First pixel that a cell sees."""
        turns, place = divmod(cell, len(self.first))
        return self.first[place] + turns * self.step

    def last_of(self, cell: int) -> int:
        """Last pixel that a cell sees."""
        turns, place = divmod(cell, len(self.last))
        return self.last[place] + turns * self.step

    def ends(self, cells: int) -> tuple[int, int]:
        """First and last pixel that any of so many cells sees, as if the image had no end."""
        period = min(len(self.first), cells)
        first = min(self.first_of(cell) for cell in range(period))
        return first, max(self.last_of(cell) for cell in range(cells - period, cells))


#: Each cell is a pixel.
PIXELS = Reach(1, (0,), (0,))


def passed(reach: Reach, taps: Taps) -> Reach:
    """What the cells of an operation see, from what the cells of its input see (Araujo et al. 2019, equations 1-3).

    They see all that lies between the outermost pixels of the cells they look at; gaps of a dilation are filled. The
    paper's recurrences for one size and one stride follow where nothing repeats but cell by cell.
    """
    # As many cells as it takes until both what is looked at and what that sees start over.
    turns = len(reach.first) // math.gcd(len(reach.first), taps.step)
    looks = [[cell + turn * taps.step for cell in cells] for turn in range(turns) for cells in taps.cells]
    step = taps.step * turns * reach.step // len(reach.first)
    first = tuple(min(reach.first_of(cell) for cell in cells) for cells in looks)
    return Reach(step, first, tuple(max(reach.last_of(cell) for cell in cells) for cells in looks))


def united(reaches: Sequence[Reach]) -> Reach | None:
    """All that any of several paths sees; None where their strides differ, so that they drift apart."""
    if len({reach.stride for reach in reaches}) != 1:
        return None
    period = math.lcm(*(len(reach.first) for reach in reaches))
    first = tuple(min(reach.first_of(cell) for reach in reaches) for cell in range(period))
    last = tuple(max(reach.last_of(cell) for reach in reaches) for cell in range(period))
    return Reach(int(reaches[0].stride * period), first, last)
