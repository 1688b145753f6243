"""Confidence against accuracy: as a picture, a table and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import figures
from .figures import Key, Mark, Plot, Tick, coordinate

# Small enough to stand beside a table, and for its ticks to be read on a telephone.
SIZE = (360, 250)
LEFT, TOP, RIGHT, BOTTOM = 44.0, 8.0, 340.0, 218.0


@dataclass(frozen=True)
class Bin:
    """Images of about the same confidence: its mean, and the share of right ones with its 95 % interval."""

    name: str
    n: int
    confidence: float
    accuracy: float
    interval: str


@dataclass(frozen=True)
class Fact:
    """A number with its name and its definition."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Reliability:
    """Whether confidences can be believed.

    Parameters
    ----------
    bins
        Those with images, the surest last.
    plot
        The reliability diagram.
    facts
        Errors, scores and the temperature; empty where they were not measured.
    """

    bins: tuple[Bin, ...]
    plot: Plot | None
    facts: tuple[Fact, ...]


def reliability(notes: Mapping[str, Any]) -> Reliability:
    """Read what the stage noted of calibration."""
    rows = [row for row in notes.get("calibration", ()) if row["n"] and row["accuracy"] is not None]
    bins = tuple(
        Bin(
            f"{_place(row['low'])} to {_place(row['high'])}",
            int(row["n"]),
            row["confidence"],
            row["accuracy"],
            interval(row.get("bounds")),
        )
        for row in rows
    )
    trust = notes.get("trust")
    return Reliability(bins, _diagram(rows) if rows else None, _facts(trust) if trust else ())


def _place(value: float) -> str:
    return figures.short(round(value, 4))


def interval(bounds: Sequence[float | None] | None) -> str:
    """Write two bounds; nothing where they are unknown."""
    if bounds is None or None in bounds:
        return ""
    return f"{figures.number(bounds[0])} to {figures.number(bounds[1])}"


def _x(value: float) -> float:
    return LEFT + (RIGHT - LEFT) * value


def _y(value: float) -> float:
    return BOTTOM + (TOP - BOTTOM) * value


def _diagram(rows: Sequence[Mapping[str, Any]]) -> Plot:
    bars = "".join(_box(_x(row["low"]) + 1, _x(row["high"]) - 1, 0.0, row["accuracy"]) for row in rows)
    whiskers = "".join(
        _box(_x((row["low"] + row["high"]) / 2) - 0.9, _x((row["low"] + row["high"]) / 2) + 0.9, *row["bounds"])
        for row in rows
        if row.get("bounds")
    )
    means = figures.dots(np.array([(_x(row["confidence"]), _y(row["confidence"])) for row in rows]))
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Plot(
        *SIZE,
        left=LEFT,
        top=TOP,
        right=RIGHT,
        bottom=BOTTOM,
        x_ticks=tuple(Tick(round(_x(value), 1), figures.short(value)) for value in ticks),
        y_ticks=tuple(Tick(round(_y(value), 1), figures.short(value)) for value in ticks),
        x_label="confidence",
        y_label="share of right answers",
        marks=(
            Mark("right", bars),
            Mark(
                "line wrong dashed", f"M{coordinate(_x(0))} {coordinate(_y(0))}L{coordinate(_x(1))} {coordinate(_y(1))}"
            ),
            Mark("line wrong blob", means),
            Mark("whisker", whiskers),
        ),
        legend=(
            Key("right", "right, with 95 % interval"),
            Key("wrong", "mean confidence; dashed: where right should be"),
        ),
        alt="Reliability diagram: share of right answers over confidence in "
        f"{len(rows)} bins that hold images, beside the diagonal of perfect calibration",
    )


def _box(x0: float, x1: float, low: float, high: float) -> str:
    y0, y1 = coordinate(_y(low)), coordinate(_y(high))
    return f"M{coordinate(x0)} {y0}V{y1}H{coordinate(x1)}V{y0}z"


def _facts(trust: Mapping[str, Any]) -> tuple[Fact, ...]:
    bins, others = trust["bins"], ((n, error) for n, error in trust["errors"].items() if int(n) != trust["bins"])
    beside = ", ".join(f"{figures.number(error)} with {n}" for n, error in others)
    return (
        Fact(
            f"Calibration error, {bins} bins",
            figures.number(trust["error"]),
            f"Mean |accuracy - confidence| of the bins, weighted by images; {trust['edges']}."
            + (f" Other numbers of bins: {beside}." if beside else ""),
        ),
        Fact(
            "of which by chance",
            figures.number(trust["chance"]),
            "Mean over draws of what a perfectly calibrated network would show on as many images; at most "
            f"{figures.number(trust['chance_high'])} in 95 % of draws.",
        ),
        Fact(
            "Classwise error",
            figures.number(trust["classwise"]),
            f"Mean over classes of the error of that class's probability over all images, {bins} such bins. With many "
            "classes nearly all probabilities lie in the first bin.",
        ),
        Fact("Log-likelihood", f"{figures.number(trust['nll'])} nat", "Mean of -ln(probability of the label)."),
        Fact("Brier score", figures.number(trust["brier"]), "Mean sum over classes of squared differences, 0 to 2."),
        _temperature(trust["temperature"]),
    )


def _temperature(told: Mapping[str, Any]) -> Fact:
    if told["value"] is None:
        low, high = (figures.short(value) for value in told["between"])
        return Fact("Temperature", "none", f"No divisor of the logits between {low} and {high} is the best.")
    fitted = f"Divisor of the logits that makes the labels likeliest, fitted on {told['images']:,} of these images."
    if told["error"] is None:
        return Fact("Temperature", figures.number(told["value"]), f"{fitted} Too few of them to say what it mends.")
    halves = " and ".join(figures.number(value) for value in told["halves"])
    return Fact(
        "Temperature",
        figures.number(told["value"]),
        f"{fitted} Each half divided by the temperature of the other ({halves}), the error is "
        f"{figures.number(told['error'])} and the negative log-likelihood {figures.number(told['nll'])}.",
    )
