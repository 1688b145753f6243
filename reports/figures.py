"""Arrays to vector plots; knows neither the store nor HTML.

Plots are plain geometry in user units that a template draws with the colours of the page, so that they follow
dark mode, print and zoom. Nothing here depends on a clock, a font or a random number: equal arrays give equal bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: More points than this are drawn as pixels, since every vector point costs bytes and drawing time.
VECTOR_POINTS = 5_000
_TRACE_COLUMNS = 120


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in user units of the plot."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """One path; `role` names what it stands for and is its CSS class."""

    role: str
    d: str


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    role: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot ready to draw.

    Parameters
    ----------
    width, height
        Size in user units.
    left, top, right, bottom
        Edges of the area that holds the marks.
    x_ticks, y_ticks
        Labelled places; grid lines run through those of y.
    x_label, y_label
        What the axes show, with the unit.
    marks
        Paths, drawn in order.
    legend
        What the roles of the marks mean.
    alt
        The plot in one sentence, for those who cannot see it.
    """

    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    marks: tuple[Mark, ...]
    legend: tuple[Key, ...]
    alt: str


def coordinate(value: float) -> str:
    """Write a coordinate with one decimal, the shortest way."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def number(value: float | int | None) -> str:
    """Write a number for people: four significant digits, thousands apart; NaN and None are "not measured"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not measured"
    if isinstance(value, float) and math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value)))) if abs(value) >= 1 else 4
    return f"{value:.{min(decimals, 4)}f}"


def with_unit(value: float | int | None, unit: str) -> str:
    """Write a number with its unit; a pure number (unit ``"1"``) and what was not measured stand alone."""
    text = number(value)
    if unit in ("", "1") or text == "not measured":
        return text
    return f"{text} {unit.removesuffix('s') if value == 1 and len(unit) > 2 else unit}"


def short(value: float) -> str:
    """Write a number that stands for a place or a limit: no more digits than it needs."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round places between two values: steps of 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    low, high
        Finite ends of the axis; equal ends give that one place.
    count
        About how many are wanted.
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _scale(low: float, high: float, start: float, stop: float) -> tuple[float, float]:
    """Slope and offset of the line that takes [low, high] to [start, stop]."""
    slope = (stop - start) / (high - low) if high > low else 0.0
    return slope, (start + stop) / 2 if slope == 0 else start - slope * low


def stacked_bars(
    series: Mapping[str, np.ndarray],
    edges: np.ndarray,
    x_label: str,
    y_label: str,
    alt: str,
    roles: Sequence[str],
) -> Plot:
    """Draw counts per bin, one series on top of the other.

    Parameters
    ----------
    series
        Counts by name, each of shape ``(bin,)``, from the bottom up.
    edges
        Edges of the bins, shape ``(bin + 1,)``, ascending.
    roles
        Role of each series.
    """
    left, top, right, bottom = 52.0, 8.0, 632.0, 168.0
    total = np.sum([np.asarray(counts, float) for counts in series.values()], axis=0)
    peak = max(1.0, float(total.max(initial=0)))
    to_x = _scale(float(edges[0]), float(edges[-1]), left, right)
    to_y = _scale(0.0, peak, bottom, top)
    base, marks = np.zeros(len(total)), []
    for role, counts in zip(roles, series.values(), strict=True):
        marks.append(Mark(role, _bars(base, np.asarray(counts, float), edges, to_x, to_y)))
        base = base + np.asarray(counts, float)
    return Plot(
        width=640,
        height=210,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        x_ticks=_ticks(float(edges[0]), float(edges[-1]), to_x, 6),
        y_ticks=_ticks(0.0, peak, to_y, 4),
        x_label=x_label,
        y_label=y_label,
        marks=tuple(marks),
        legend=tuple(Key(role, name) for role, name in zip(roles, series, strict=True)),
        alt=alt,
    )


def _bars(
    base: np.ndarray, counts: np.ndarray, edges: np.ndarray, to_x: tuple[float, float], to_y: tuple[float, float]
) -> str:
    parts = []
    for index, count in enumerate(counts):
        if count <= 0:
            continue
        x0 = to_x[0] * edges[index] + to_x[1] + 0.5
        x1 = to_x[0] * edges[index + 1] + to_x[1] - 0.5
        y0, y1 = (to_y[0] * value + to_y[1] for value in (base[index], base[index] + count))
        parts.append(f"M{coordinate(x0)} {coordinate(y0)}V{coordinate(y1)}H{coordinate(x1)}V{coordinate(y0)}z")
    return "".join(parts)


def _ticks(low: float, high: float, to: tuple[float, float], count: int) -> tuple[Tick, ...]:
    return tuple(Tick(round(to[0] * value + to[1], 1), short(value)) for value in nice_ticks(low, high, count))


def lines(
    series: Mapping[str, np.ndarray],
    x_label: str,
    y_label: str,
    alt: str,
    roles: Sequence[str],
    *,
    joined: bool = False,
) -> Plot:
    """Draw values over 1, 2, 3, ...; gaps where they are NaN.

    Parameters
    ----------
    series
        Values by name, each of shape ``(step,)``.
    roles
        Role of each series.
    joined
        Whether lines run on over gaps: for series that take turns.
    """
    left, top, right, bottom = 62.0, 8.0, 632.0, 168.0
    values = np.concatenate([np.asarray(value, float) for value in series.values()])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = min(low, 0.0) if low < 0.5 * high else low
    steps = max(len(value) for value in series.values())
    to_x, to_y = _scale(1.0, float(steps), left + 6, right - 6), _scale(low, high, bottom - 4, top + 4)
    marks = [
        Mark(
            f"{role} line",
            _polyline(np.arange(1, len(value) + 1) * to_x[0] + to_x[1], value * to_y[0] + to_y[1], joined),
        )
        for role, value in zip(roles, (np.asarray(value, float) for value in series.values()), strict=True)
    ]
    return Plot(
        width=640,
        height=210,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        x_ticks=tuple(tick for tick in _ticks(1.0, float(steps), to_x, 6) if "." not in tick.text),
        y_ticks=_ticks(low, high, to_y, 4),
        x_label=x_label,
        y_label=y_label,
        marks=tuple(marks),
        legend=tuple(Key(role, name) for role, name in zip(roles, series, strict=True)),
        alt=alt,
    )


def _polyline(x: np.ndarray, y: np.ndarray, joined: bool = False) -> str:
    parts, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if not np.isfinite(py):
            pen = pen if joined else "M"
            continue
        parts.append(f"{pen}{coordinate(px)} {coordinate(py)}")
        pen = "L"
    return "".join(parts)


def traces(signal: np.ndarray, width: float, height: float) -> tuple[str, ...]:
    """Draw a signal, one path per channel, all on one scale.

    Parameters
    ----------
    signal
        Shape ``(channel, time)``, in input units. Longer than the picture has columns, it is drawn by the least and
        greatest value of each column, so that no spike is lost.
    width, height
        Size of the picture in user units.
    """
    values = np.asarray(signal, float)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return tuple("" for _ in values)
    to_y = _scale(float(finite.min()), float(finite.max()), height - 3, 3)
    return tuple(_polyline(*_envelope(row * to_y[0] + to_y[1], width)) for row in values)


def _envelope(y: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    if len(y) <= 2 * _TRACE_COLUMNS:
        return np.linspace(0, width, len(y)), y
    edges = np.linspace(0, len(y), _TRACE_COLUMNS + 1).astype(int)
    columns = [y[a:b] for a, b in itertools.pairwise(edges)]
    low_high = np.array([(np.min(column), np.max(column)) for column in columns])
    return np.repeat(np.linspace(0, width, _TRACE_COLUMNS), 2), low_high.ravel()


def outline(mask: np.ndarray) -> str:
    """Draw the edges between the cells of a mask and those outside of it, as one path in units of cells.

    Parameters
    ----------
    mask
        Shape ``(y, x)``, bool; beyond the border is outside.
    """
    inside = np.pad(np.asarray(mask, bool), 1)
    across = inside[1:, 1:-1] != inside[:-1, 1:-1]  # between a cell and the one above
    upright = inside[1:-1, 1:] != inside[1:-1, :-1]  # between a cell and the one to its left
    rows = [f"M{start} {y}h{stop - start}" for y, row in enumerate(across) for start, stop in _runs(row)]
    columns = [f"M{x} {start}v{stop - start}" for x, column in enumerate(upright.T) for start, stop in _runs(column)]
    return "".join(rows + columns)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    turns = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(start), int(stop)) for start, stop in turns.reshape(-1, 2)]


def dots(points: np.ndarray) -> str:
    """Draw points as zero-length strokes, the shortest path there is for a round dot.

    Parameters
    ----------
    points
        Shape ``(point, 2)`` in user units.
    """
    return "".join(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in points)


def crosses(points: np.ndarray, arm: float = 2.2) -> str:
    """Draw points as diagonal crosses of half-width `arm`."""
    side, back = coordinate(2 * arm), coordinate(-2 * arm)
    return "".join(
        f"M{coordinate(x - arm)} {coordinate(y - arm)}l{side} {side}m0 {back}l{back} {side}" for x, y in points
    )


def spark(counts: np.ndarray, width: float = 80, height: float = 18) -> str:
    """Draw counts as a row of small bars that fills ``width`` by ``height``."""
    counts = np.asarray(counts, float)
    peak = max(1.0, float(counts.max(initial=0)))
    step = width / max(1, len(counts))
    return "".join(
        f"M{coordinate(index * step + 0.5)} {coordinate(height)}"
        f"v{coordinate(-max(1.0, height * count / peak))}h{coordinate(step - 1)}V{coordinate(height)}z"
        for index, count in enumerate(counts)
        if count > 0
    )
