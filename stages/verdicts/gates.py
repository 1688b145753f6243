"""Gates: what a measurement must satisfy, and the pure function that judges it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from ..specs import Measurement

Status = Literal["SKIP", "PASS", "WARN", "FAIL", "ERROR"]
# YAML reads a bare `off` as false, so false has to mean the same thing.
Level = Literal["error", "warn", "off", False]

#: From harmless to grave; the verdict of a run is the gravest of its gates.
GRAVITY: tuple[Status, ...] = ("SKIP", "PASS", "WARN", "FAIL", "ERROR")


@dataclass(frozen=True)
class Gate:
    """What one measurement must satisfy.

    Parameters
    ----------
    measurement
        Name of the measurement, ``<stage>/<quantity>``.
    level
        What a broken limit is: ``"error"`` fails the run, ``"warn"`` warns, ``"off"`` does not look.
    min, max
        Lowest and highest value that passes, in the unit of the measurement; the limit itself passes.
    on_missing
        What it is when nobody measured it: ``"error"``, or ``"skip"`` where its stage is not part of the run or says
        that it does not apply to the data. NaN, a failed stage and a name that a finished stage does not know are an
        ERROR in either case.
    reason
        Why the gate is there, for people.

    Raises
    ------
    ConfigError
        When there is no limit, a limit is not a number, or `min` lies above `max`.
    """

    measurement: str
    level: Level = "error"
    min: float | None = None
    max: float | None = None
    on_missing: Literal["error", "skip"] = "error"
    reason: str = ""

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ConfigError(f"gate on {self.measurement}: expected min or max, got neither; set level=off instead")
        for side, limit in (("min", self.min), ("max", self.max)):
            if limit is not None and not math.isfinite(limit):
                raise ConfigError(f"gate on {self.measurement}: {side} must be a finite number, got {limit}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(f"gate on {self.measurement}: min {self.min:g} lies above max {self.max:g}")

    @property
    def is_off(self) -> bool:
        """Whether nobody looks."""
        return self.level in ("off", False)

    @property
    def limit(self) -> str:
        """The limits, in words."""
        sides = ((">=", self.min), ("<=", self.max))
        return " and ".join(f"{sign} {limit:g}" for sign, limit in sides if limit is not None)


@dataclass(frozen=True)
class Judgement:
    """What a gate says of a measurement.

    Parameters
    ----------
    status
        The outcome.
    reason
        Why, in one line.
    uncertain
        Whether the 95 % interval of the measurement lies on both sides of a limit.
    """

    status: Status
    reason: str
    uncertain: bool = False


def judge(measurement: Measurement | None, gate: Gate, absence: str = "") -> Judgement:
    """Hold one measurement against one gate.

    Parameters
    ----------
    measurement
        What was measured; None where nothing was.
    gate
        What it must satisfy.
    absence
        Why its stage could not be expected to measure it (not run, not applicable); empty where it should have.

    Returns
    -------
    Judgement
        PASS only for a finite value within the limits.
    """
    if gate.is_off:
        return Judgement("SKIP", "switched off")
    if measurement is None:
        if absence and gate.on_missing == "skip":
            return Judgement("SKIP", absence)
        return Judgement("ERROR", absence or f"no stage measured {gate.measurement}")
    if not math.isfinite(measurement.value):
        return Judgement("ERROR", f"{gate.measurement} is {measurement.value}: it could not be measured")
    uncertain = _straddles(measurement, gate.min) or _straddles(measurement, gate.max)
    doubt = "; the 95 % interval lies on both sides of the limit" if uncertain else ""
    broken = _broken(measurement.value, gate)
    if broken:
        return Judgement("FAIL" if gate.level == "error" else "WARN", broken + doubt, uncertain)
    return Judgement("PASS", f"{_number(measurement.value)} {gate.limit}{doubt}", uncertain)


def worst(statuses: Iterable[Status]) -> Status:
    """The gravest status; ERROR where nothing was judged at all, because nobody looked."""
    grave = GRAVITY[max((GRAVITY.index(status) for status in statuses), default=0)]
    return "ERROR" if grave == "SKIP" else grave


def _broken(value: float, gate: Gate) -> str:
    if gate.min is not None and value < gate.min:
        return f"{_number(value)} is below {gate.min:g}"
    if gate.max is not None and value > gate.max:
        return f"{_number(value)} is above {gate.max:g}"
    return ""


def _straddles(measurement: Measurement, limit: float | None) -> bool:
    if limit is None or measurement.low is None or measurement.high is None:
        return False
    return measurement.low < limit < measurement.high


def _number(value: float) -> str:
    # Enough digits to tell a value from the limit it just misses, and no trailing noise.
    return f"{value:.6g}"
