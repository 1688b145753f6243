"""The verdict and the gates that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import figures
from ..material import Material

TITLE = "Verdict"
QUESTION = "May this model be used?"
_ORDER = ("ERROR", "FAIL", "WARN", "PASS", "SKIP")
_MEANING = {
    "PASS": "Every gate is met.",
    "WARN": "Nothing that blocks, but something wants a look.",
    "FAIL": "The model does not meet what was asked of it.",
    "ERROR": "Something could not be judged or did not run; that is never a pass.",
    "NOT JUDGED": "No gates were asked for.",
}


@dataclass(frozen=True)
class Gate:
    """One gate as a row of text; `status` is PASS, WARN, FAIL, ERROR or SKIP."""

    name: str
    level: str
    status: str
    measurement: str
    measured: str
    interval: str
    n: str
    limit: str
    reason: str
    why: str


@dataclass(frozen=True)
class VerdictView:
    """The verdict in one word and one sentence, the leaves that failed, grave findings, and the gates, worst first."""

    word: str
    meaning: str
    failures: tuple[tuple[str, str], ...]
    grave: int
    gates: tuple[Gate, ...]
    counts: tuple[tuple[str, int], ...]


def view(material: Material) -> VerdictView:
    """Read the verdict from the store; a failed judgement is ERROR, one that nobody asked for says so."""
    reason = next((material.store.failure(leaf) for leaf in material.leaves("verdicts")), None)
    if reason is not None:
        return VerdictView("ERROR", f"The verdict itself failed: {reason}", (), 0, (), ())
    if not material.has("verdicts"):
        return VerdictView("NOT JUDGED", _MEANING["NOT JUDGED"], (), 0, (), ())
    return from_notes(material.notes("verdicts"))


def from_notes(notes: Mapping[str, Any]) -> VerdictView:
    """Turn what the verdicts stage noted into rows of text.

    Parameters
    ----------
    notes
        ``verdict`` and ``gates``, as the stage wrote them.
    """
    gates = [_gate(row) for row in notes.get("gates", ())]
    gates.sort(key=lambda gate: (_ORDER.index(gate.status), gate.name))
    word = str(notes.get("verdict", "ERROR"))
    if word not in _MEANING:
        word = "ERROR"
    counts = tuple((status, sum(gate.status == status for gate in gates)) for status in _ORDER)
    failures = [(str(row["leaf"]), str(row["reason"])) for row in notes.get("failures", ())]
    if "reason" in notes:
        failures.append(("verdicts", str(notes["reason"])))
    counting = notes.get("findings_level", "off") != "off"
    return VerdictView(
        word=word,
        meaning=_MEANING[word] + (f" First: {notes['first_error']}." if notes.get("first_error") else ""),
        failures=tuple(failures),
        grave=int(notes.get("error_findings") or 0) if counting else 0,
        gates=tuple(gates),
        counts=tuple((status, n) for status, n in counts if n),
    )


def _gate(row: Mapping[str, Any]) -> Gate:
    low, high = row.get("low"), row.get("high")
    status = str(row.get("status", "ERROR"))
    return Gate(
        name=str(row.get("name", "")),
        level=str(row.get("level", "")),
        status=status if status in _ORDER else "ERROR",
        measurement=str(row.get("measurement", "")),
        measured=figures.with_unit(row.get("value"), str(row.get("unit") or "1")),
        interval="" if low is None or high is None else f"{figures.number(low)} to {figures.number(high)}",
        n=figures.number(row["n"]) if row.get("n") else "",
        limit=_limit(row.get("limit")),
        reason=str(row.get("reason") or ""),
        why=str(row.get("why") or ""),
    )


def _limit(limit: Any) -> str:
    if isinstance(limit, (int, float)) and not isinstance(limit, bool):
        return figures.short(limit)
    return "" if limit is None else str(limit)
