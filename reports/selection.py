"""Errors that remain when only the surest answers are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import figures
from .figures import Key, Mark, Plot, Tick, coordinate
from .reliability import BOTTOM, LEFT, RIGHT, SIZE, TOP, interval

_SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Step:
    """The surest images: how many, from which confidence on, and the share of wrong ones with its 95 % interval."""

    share: float
    n: int
    threshold: float
    risk: float
    interval: str


@dataclass(frozen=True)
class Selection:
    """The risk-coverage curve, some of its steps, and the area under it with its excess."""

    plot: Plot
    steps: tuple[Step, ...]
    area: float
    excess: float


def selection(notes: Mapping[str, Any]) -> Selection | None:
    """Read what the stage noted of selective answers; None where it noted nothing."""
    told = notes.get("selective")
    if not told:
        return None
    rows, n = told["steps"], told["steps"][-1]["covered"]
    chosen = {row["covered"]: row for row in (rows[min(len(rows), round(len(rows) * share)) - 1] for share in _SHOWN)}
    steps = tuple(
        Step(
            row["covered"] / n, row["covered"], row["threshold"], row["wrong"] / row["covered"], interval(row["bounds"])
        )
        for row in chosen.values()
    )
    return Selection(_curve(rows), steps, told["area"], told["excess"])


def _curve(rows: Sequence[Mapping[str, Any]]) -> Plot:
    n = rows[-1]["covered"]
    risk = [row["wrong"] / row["covered"] for row in rows]
    peak = max(*risk, 1e-9)
    x = [LEFT + (RIGHT - LEFT) * row["covered"] / n for row in rows]
    series = (("right", risk), ("wrong dashed", [row["least"] for row in rows]))
    return Plot(
        *SIZE,
        left=LEFT,
        top=TOP,
        right=RIGHT,
        bottom=BOTTOM,
        x_ticks=tuple(Tick(LEFT + (RIGHT - LEFT) * at / 4, f"{25 * at} %") for at in range(5)),
        y_ticks=tuple(Tick(_height(at, peak), figures.short(at)) for at in figures.nice_ticks(0.0, peak, 4)),
        x_label="images answered, surest first",
        y_label="share of wrong answers among them",
        marks=tuple(Mark(f"line {role}", _path(x, values, peak)) for role, values in series),
        legend=(Key("right", "as it is"), Key("wrong", "dashed: if all wrong answers were the least sure")),
        alt=f"Risk-coverage curve: from {risk[0]:.1%} wrong among the surest to {risk[-1]:.1%} among all {n} images",
    )


def _height(value: float, peak: float) -> float:
    return round(BOTTOM + (TOP - BOTTOM) * value / peak, 1)


def _path(x: Sequence[float], values: Sequence[float], peak: float) -> str:
    points = (f"{coordinate(at)} {coordinate(_height(value, peak))}" for at, value in zip(x, values, strict=True))
    return "M" + "L".join(points)
