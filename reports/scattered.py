"""Pairs of classes as points: how much they are confused over how far apart they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import figures
from .figures import Tick, coordinate

WIDTH, HEIGHT = 460, 300
LEFT, TOP, RIGHT, BOTTOM = 46.0, 10.0, 452.0, 262.0
_LABELS, _LETTER, _LINE = 8, 6.0, 13.0
_RADIUS = 3.6


@dataclass(frozen=True)
class Label:
    """The name of a point."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Shape:
    """All points of one verdict, as one path, and how such a point looks in a legend of 10 by 10."""

    role: str
    d: str
    key: str
    text: str


@dataclass(frozen=True)
class Scatter:
    """A plot of points that differ in shape, with names beside some.

    Parameters
    ----------
    x_ticks, y_ticks
        Labelled places.
    shapes
        Drawn in order.
    labels
        None of them over another.
    alt
        The plot in one sentence.
    """

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    labels: tuple[Label, ...]
    alt: str
    size: tuple[int, int] = (WIDTH, HEIGHT)
    edges: tuple[float, float, float, float] = (LEFT, TOP, RIGHT, BOTTOM)


def scatter(
    x: np.ndarray, y: np.ndarray, kinds: Sequence[tuple[np.ndarray, str, str, str]], names: Sequence[tuple[int, str]]
) -> Scatter:
    """Draw points.

    Parameters
    ----------
    x, y
        Finite values of each point; y is a share.
    kinds
        Which points, how they are drawn (``"dot"``, ``"square"``, ``"cross"`` or ``"ring"``), their CSS class, and what
        they are.
    names
        Points to be named while there is room, the most important first.
    """
    far, high = max(float(x.max(initial=0)), 1e-9), max(float(y.max(initial=0)), 1e-9)
    place = np.stack([LEFT + 8 + (RIGHT - LEFT - 16) * x / far, BOTTOM - 8 + (TOP + 16 - BOTTOM) * y / high], axis=1)
    shapes = tuple(
        Shape(role, _drawn(place[mask], form), _drawn(np.array([[5.0, 5.0]]), form), f"{text} ({int(mask.sum()):,})")
        for mask, form, role, text in kinds
        if mask.any()
    )
    return Scatter(
        x_ticks=tuple(
            Tick(round(LEFT + 8 + (RIGHT - LEFT - 16) * at / far, 1), figures.short(at))
            for at in figures.nice_ticks(0, far, 5)
        ),
        y_ticks=tuple(
            Tick(round(BOTTOM - 8 + (TOP + 16 - BOTTOM) * at / high, 1), f"{100 * at:.3g} %")
            for at in figures.nice_ticks(0, high, 4)
        ),
        shapes=shapes,
        labels=_labels(place, names),
        alt=f"{len(x):,} pairs of classes by separation, 0 to {far:.3g}, and share of images confused, 0 to "
        f"{high:.1%}: " + ", ".join(shape.text for shape in shapes),
    )


def _drawn(points: np.ndarray, form: str) -> str:
    if form == "dot":
        return figures.dots(points)
    if form == "square":
        side = coordinate(2 * _RADIUS)
        corners = (f"M{coordinate(px - _RADIUS)} {coordinate(py - _RADIUS)}" for px, py in points)
        return "".join(f"{corner}h{side}v{side}h-{side}z" for corner in corners)
    if form == "cross":
        return figures.crosses(points, _RADIUS)
    arc = f"a{_RADIUS} {_RADIUS} 0 1 0"
    return "".join(
        f"M{coordinate(px - _RADIUS)} {coordinate(py)}{arc} {2 * _RADIUS:g} 0{arc} {-2 * _RADIUS:g} 0"
        for px, py in points
    )


def _labels(place: np.ndarray, names: Sequence[tuple[int, str]]) -> tuple[Label, ...]:
    """Names right or left of their points, left out where they would cover a point or another name."""
    dots = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in place]
    taken: list[tuple[float, float, float, float]] = []
    found = []
    for at, text in names:
        x, y = place[at]
        width = _LETTER * len(text)
        for anchor, start in (("start", x + 8), ("end", x - 8 - width)):
            box = (start, y - _LINE / 2, start + width, y + _LINE / 2)
            if box[0] > LEFT and box[2] < RIGHT and not any(_meet(box, other) for other in (*dots, *taken)):
                taken.append(box)
                found.append(Label(round(x + (8 if anchor == "start" else -8), 1), round(y, 1), anchor, text))
                break
        if len(found) == _LABELS:
            break
    return tuple(found)


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
