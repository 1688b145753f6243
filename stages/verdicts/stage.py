"""Holds what was measured against the gates; computes nothing of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..contract import Partial, SoleLeaf, Stored, Subject, Task
from ..specs import Measurement, SizedArray, Summary
from .gates import Gate, Judgement, Status, judge, worst
from .priority import UNTRUSTWORTHY, rank


@dataclass(frozen=True)
class Verdicts(SoleLeaf):
    """The verdict on a run: the gravest of its gates, of its failed leaves and of its findings.

    Parameters
    ----------
    gates
        Gates by name.
    findings_level
        What a finding of severity ``"error"`` makes of the run: ``"error"`` fails it, ``"warn"`` warns. One
        after which no number can be believed (logits that are not finite) makes it an ERROR, whatever is set.
    """

    gates: dict[str, Gate] = field(default_factory=dict)
    # YAML reads a bare `off` as false.
    findings_level: Literal["error", "warn", "off", False] = "warn"

    name: ClassVar[str] = "verdicts"

    @property
    def reads(self) -> tuple[str, ...]:
        """Everything that was run or tried."""
        return ("*",)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """No arrays: a verdict is notes."""
        del subject
        return ()

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """No tasks: `finish` judges."""
        del subject, stored
        return []

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Judge every gate."""
        del partials, subject
        return Summary(notes=verdict(self.gates, self.findings_level, _others(stored), stored))


def verdict(
    gates: Mapping[str, Gate],
    findings_level: Literal["error", "warn", "off", False],
    leaves: Sequence[str],
    stored: Stored,
) -> dict[str, Any]:
    """Judge a run.

    Parameters
    ----------
    gates
        Gates by name.
    findings_level
        What a finding of severity ``"error"`` makes of the run.
    leaves
        The leaves that were run or tried.
    stored
        What they measured, found, or failed of.

    Returns
    -------
    dict
        ``verdict``, the judged ``gates``, ``failures`` (leaf, reason), the number of ``error_findings``, the title of
        the ``first_error`` a person should read (None without), and the
        ``accuracy`` that the headline quotes (None where there is none).
    """
    failures = [{"leaf": leaf, "reason": reason} for leaf in leaves if (reason := stored.failure(leaf)) is not None]
    failed = {row["leaf"] for row in failures}
    summaries = {leaf: stored.summary(leaf) for leaf in leaves if leaf not in failed}
    measured = {m.name: m for summary in summaries.values() for m in summary.measurements}
    rows = [_row(name, gate, measured.get(gate.measurement), summaries, failures) for name, gate in gates.items()]
    errors = [f for summary in summaries.values() for f in summary.findings if f.severity == "error"]
    grave = sorted(errors, key=lambda finding: rank(finding.code))
    statuses: list[Status] = [row["status"] for row in rows] + ["ERROR"] * len(failures)
    overall = worst(statuses)
    if grave and findings_level not in ("off", False):
        overall = worst((overall, "FAIL" if findings_level == "error" else "WARN"))
    if any(finding.code in UNTRUSTWORTHY for finding in grave):
        overall = "ERROR"
    return {
        "verdict": overall,
        "gates": rows,
        "failures": failures,
        "error_findings": len(grave),
        "first_error": grave[0].title if grave else None,
        "findings_level": findings_level or "off",
        "accuracy": _quoted(measured.get("predictions/accuracy")),
    }


def headline(notes: Mapping[str, Any]) -> str:
    """The verdict in one line, for instance ``PASS  7 of 7 gates; accuracy 98.9 % [97.6, 99.5] n=540``."""
    gates = notes["gates"]
    judged = [gate for gate in gates if gate["status"] != "SKIP"]
    parts = [f"{sum(gate['status'] == 'PASS' for gate in judged)} of {len(judged)} gates"]
    if len(judged) < len(gates):
        parts[0] += f" ({len(gates) - len(judged)} not judged)"
    names = [gate["name"] for gate in judged if gate["status"] != "PASS"]
    if names:
        parts.append("not passed: " + _shown(names))
    if notes["failures"]:
        parts.append("failed: " + _shown([row["leaf"] for row in notes["failures"]]))
    if notes["error_findings"]:
        first = f", first: {notes['first_error']}" if notes.get("first_error") else ""
        parts.append(f"findings of severity error: {notes['error_findings']}{first}")
    accuracy = notes["accuracy"]
    if accuracy is not None:
        bounds = "" if accuracy["low"] is None else f" [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
        parts.append(f"accuracy {100 * accuracy['value']:.1f} %{bounds} n={accuracy['n']}")
    return f"{notes['verdict']}  " + "; ".join(parts)


def _shown(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _others(stored: Stored) -> tuple[str, ...]:
    return tuple(leaf for leaf in stored.leaves() if leaf != Verdicts.name)


def _row(
    name: str,
    gate: Gate,
    measurement: Measurement | None,
    summaries: Mapping[str, Summary],
    failures: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    judgement = _judged(gate, measurement, summaries, failures)
    return {
        "name": name,
        "level": gate.level or "off",
        "status": judgement.status,
        "measurement": gate.measurement,
        "value": _finite(measurement.value) if measurement else None,
        "low": _finite(measurement.low) if measurement else None,
        "high": _finite(measurement.high) if measurement else None,
        "unit": measurement.unit if measurement else "",
        "n": measurement.n if measurement else 0,
        "limit": gate.limit,
        "min": gate.min,
        "max": gate.max,
        "uncertain": judgement.uncertain,
        "reason": judgement.reason,
        "why": gate.reason,
    }


def _judged(
    gate: Gate,
    measurement: Measurement | None,
    summaries: Mapping[str, Summary],
    failures: Sequence[Mapping[str, str]],
) -> Judgement:
    stage = gate.measurement.split("/", 1)[0]
    broken = [row for row in failures if row["leaf"].split("/", 1)[0] == stage]
    if measurement is None and broken and not gate.is_off:
        return Judgement("ERROR", f"{broken[0]['leaf']} failed: {broken[0]['reason']}")
    return judge(measurement, gate, _absence(gate.measurement, summaries) if measurement is None else "")


def _absence(measurement: str, summaries: Mapping[str, Summary]) -> str:
    """Why `measurement` could not be expected; empty where its stage should have made it."""
    stage = measurement.split("/", 1)[0]
    own = [summary.notes for leaf, summary in summaries.items() if leaf.split("/", 1)[0] == stage]
    if not own:
        return f"{stage} is not part of this run"
    if all(notes.get("status") == "not applicable" for notes in own):
        return f"{stage} does not apply: {own[0].get('reason', 'no reason given')}"
    reasons = [notes["not_applicable"][measurement] for notes in own if measurement in notes.get("not_applicable", {})]
    return f"{measurement} does not apply: {reasons[0]}" if reasons else ""


def _quoted(accuracy: Measurement | None) -> dict[str, Any] | None:
    if accuracy is None or not math.isfinite(accuracy.value):
        return None
    return {"value": accuracy.value, "low": _finite(accuracy.low), "high": _finite(accuracy.high), "n": accuracy.n}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
