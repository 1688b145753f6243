"""What every value of a map sees of the image: its cells along each axis, and its channels apart from each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .reach import PIXELS, Reach, Taps, passed, united


@dataclass(frozen=True)
class Field:
    """What the cells of a map see in one group of channels.

    Parameters
    ----------
    reach
        Per spatial axis, along the paths that keep each cell's place; None where no such path is left.
    whole
        Per spatial axis, whether something pooled over all of it reaches every cell.
    ends
        Per spatial axis, first and last pixel that any cell sees: windows that would reach beyond the last cell of a
        map leave pixels at the border of the image out.
    clash
        Which branches, on the way here, met although their cells lie at different places; None for none.
    unknown
        Why nobody can say what is seen; None where it can be said.
    """

    reach: tuple[Reach | None, ...]
    whole: tuple[bool, ...]
    ends: tuple[tuple[int, int], ...]
    clash: str | None = None
    unknown: str | None = None

    def everywhere(self) -> Field:
        """The same, reached from all over the image."""
        return replace(self, whole=(True,) * len(self.whole))

    def placed_at(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Strides and centres per axis; None unless each cell has a place."""
        reaches = [reach for reach in self.reach if reach is not None]
        if len(reaches) < len(self.reach) or self.unknown is not None:
            return None
        return tuple(float(reach.stride) for reach in reaches), tuple(float(reach.centre) for reach in reaches)


@dataclass(frozen=True)
class FieldMap:
    """What a value with spatial axes sees.

    Parameters
    ----------
    axes
        Which of its axes run along the spatial axes of the image.
    label
        Place in `fields` of what is seen, -1 for a constant; of the value's shape, with length 1 along `axes` and the
        image axis.
    fields
        Each once.
    folded
        Lengths of the leading axes, image and space, that were laid into the first for a matrix product.
    """

    axes: tuple[int, ...]
    label: np.ndarray
    fields: tuple[Field, ...]
    folded: tuple[int, ...] | None = None

    def everywhere(self) -> bool:
        """Whether every value sees all of the image."""
        return bool(self.fields) and all(all(field.whole) and field.unknown is None for field in self.fields)

    def each(self, change: Callable[[Field], Field]) -> FieldMap:
        """The same with other fields."""
        return replace(self, fields=tuple(change(field) for field in self.fields))

    def moved(self, axis: int, taps: Taps | None, cells: int, unknown: str = "") -> FieldMap:
        """After each cell has looked at some others along spatial axis `axis`, which makes `cells` of them.

        `taps` is None where nobody knows at which; `unknown` says why.
        """

        def change(field: Field) -> Field:
            if taps is None:
                return replace(field, unknown=field.unknown or unknown)
            reach = field.reach[axis]
            moved = None if reach is None else passed(reach, taps)
            first, last = field.ends[axis]
            if moved is not None:
                low, high = moved.ends(cells)
                first, last = max(first, low), min(last, high)
            return replace(
                field,
                reach=(*field.reach[:axis], moved, *field.reach[axis + 1 :]),
                ends=(*field.ends[:axis], (first, last), *field.ends[axis + 1 :]),
            )

        return self.each(change)

    def wholly(self, axes: Collection[int]) -> FieldMap:
        """After all cells along some spatial axes have reached every cell there."""
        return self.each(
            lambda field: replace(field, whole=tuple(flag or axis in axes for axis, flag in enumerate(field.whole)))
        )

    def placeless(self, axes: Collection[int]) -> FieldMap:
        """After one cell has been spread along some spatial axes: it is the same everywhere, and lies nowhere."""
        return self.wholly(axes).each(
            lambda field: replace(field, reach=tuple(None if i in axes else r for i, r in enumerate(field.reach)))
        )


def image_seen(shape: tuple[int, ...], n_space: int) -> FieldMap:
    """What the image itself sees: each pixel itself."""
    axes = tuple(range(len(shape) - n_space, len(shape)))
    label = np.zeros([1 if axis in (0, *axes) else n for axis, n in enumerate(shape)], np.int64)
    ends = tuple((0, shape[axis] - 1) for axis in axes)
    return FieldMap(axes, label, (Field((PIXELS,) * n_space, (False,) * n_space, ends),))


def merged(fields: Sequence[Field], where: str, unknown: str | None = None) -> Field:
    """What is seen where several branches meet.

    Parameters
    ----------
    fields
        Of the branches; at least one.
    where
        Name of the operation, for the clash.
    unknown
        Why nobody can say, whatever the branches see.
    """
    reaches: list[Reach | None] = []
    drift = None
    for axis in range(len(fields[0].reach)):
        known = [reach for field in fields if (reach := field.reach[axis]) is not None]
        joined = united(known) if known else None
        if known and joined is None:
            drift = f"branches of different strides meet at the operation {where}"
            joined = known[0]
        reaches.append(joined)
    whole = tuple(any(flags) for flags in zip(*(field.whole for field in fields), strict=True))
    ends = tuple(
        (min(a for a, _ in each), max(b for _, b in each)) for each in zip(*(f.ends for f in fields), strict=True)
    )
    clash = next((field.clash for field in fields if field.clash), None) or clash_of(fields, where)
    reason = next((field.unknown for field in fields if field.unknown), unknown or drift)
    return Field(tuple(reaches), whole, ends, clash, reason)


def _by_axis(fields: Sequence[Field]) -> Iterator[tuple[tuple[int, int], ...]]:
    return zip(*(field.ends for field in fields), strict=True)


def clash_of(fields: Sequence[Field], where: str) -> str | None:
    """How the cells of branches that meet lie at different places; None where they do not."""
    placed = [field for field in fields if field.placed_at() is not None]
    for other in placed[1:]:
        (stride, centre), (strides, centres) = placed[0].placed_at() or ((), ()), other.placed_at() or ((), ())
        if (stride, centre) != (strides, centres) and not (stride == strides and _up_to_the_same(placed[0], other)):
            return (
                f"branches that meet at the operation {where} disagree: strides {stride} and {strides}, "
                f"centres {centre} and {centres}"
            )
    return None


def _up_to_the_same(one: Field, other: Field) -> bool:
    """Whether the cells of two signals see up to the same sample, which is where they lie in a causal network."""
    if len(one.reach) != 1 or one.reach[0] is None or other.reach[0] is None:
        return False
    return one.reach[0].last_of(0) == other.reach[0].last_of(0)


def mixed(sets: np.ndarray, fields: Sequence[Field], where: str) -> tuple[np.ndarray, tuple[Field, ...]]:
    """Merge what is seen, set by set.

    Parameters
    ----------
    sets
        Places in `fields` ``(member, set)``; -1 for a constant.
    fields
        What is seen.
    where
        Name of the operation.

    Returns
    -------
    tuple
        Place of each set's field ``(set,)``, -1 where it has constants only, and the fields, each once.
    """
    codes, inverse = _distinct(sets)
    table: dict[Field, int] = {}
    places = []
    for members in codes:
        held = [fields[member] for member in members if member >= 0]
        places.append(table.setdefault(held[0] if len(held) == 1 else merged(held, where), len(table)) if held else -1)
    return np.array(places, np.int64)[inverse], tuple(table)


def _distinct(sets: np.ndarray) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Members of each set, each once, and which of these every column is."""
    ordered = np.sort(sets, axis=0)
    repeats = np.zeros(ordered.shape, bool)
    repeats[1:] = ordered[1:] == ordered[:-1]
    ordered[repeats] = -1
    rows, inverse = np.unique(np.sort(ordered, axis=0), axis=1, return_inverse=True)
    return [tuple(column) for column in rows.T.tolist()], inverse.reshape(-1)
