"""Errors that remain when only the surest answers are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import figures
from .figures import Plot
from .reliability import interval

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
    risk = np.array([row["wrong"] / row["covered"] for row in rows])
    least = np.array([row["least"] for row in rows])
    plot = figures.lines(
        {"as it is": risk, "if all wrong answers were the least sure": least},
        "percent of the images answered, surest first",
        "share of wrong answers among them",
        f"Risk-coverage curve: from {risk[0]:.1%} wrong among the surest to {risk[-1]:.1%} among all {n} images",
        ("right", "wrong"),
    )
    return Selection(plot, steps, told["area"], told["excess"])
