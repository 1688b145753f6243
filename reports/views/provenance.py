"""What was audited with which settings, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..material import Material

TITLE = "Provenance"
QUESTION = "What exactly was audited, with what, and what was left out?"
#: Where and how a run took place has no part in its results, so the report must not depend on it.
WHEREABOUTS = ("cluster", "hydra", "run", "tracking", "work")
_LEFT_OUT = ("skipped", "sampled", "left_out", "capped")


@dataclass(frozen=True)
class Fact:
    """One line of a list of facts."""

    name: str
    value: str


@dataclass(frozen=True)
class Facts:
    """A titled list of facts."""

    title: str
    rows: tuple[Fact, ...]


@dataclass(frozen=True)
class Omission:
    """Something that is not in the numbers, and why."""

    kind: str
    what: str
    why: str


@dataclass(frozen=True)
class ProvenanceView:
    """Facts about model, data and numerics, what was left out, and the resolved config."""

    facts: tuple[Facts, ...]
    omissions: tuple[Omission, ...]
    config: str


def view(material: Material, not_asked: Sequence[str], trimmed: Sequence[Omission]) -> ProvenanceView:
    """Gather what the section shows.

    Parameters
    ----------
    not_asked
        Stages that this version knows and that nobody asked for.
    trimmed
        What the report itself left out.
    """
    config = {key: value for key, value in material.config.items() if key not in WHEREABOUTS}
    omissions = [
        *_failed(material),
        *_sampled_data(material),
        *_noted(material),
        *(Omission("not asked", noun, "the stage is not among the stages of this run") for noun in not_asked),
        *trimmed,
    ]
    return ProvenanceView(
        _facts(material.subject), tuple(omissions), json.dumps(config, indent=2, sort_keys=True, default=str)
    )


def _facts(subject: Mapping[str, Any]) -> tuple[Facts, ...]:
    plain = {key: value for key, value in subject.items() if not isinstance(value, Mapping) and key != "layers"}
    plain["layers"] = len(subject.get("layers", ()))
    groups = [(key, value) for key, value in sorted(subject.items()) if isinstance(value, Mapping)]
    parts = [Facts("subject", flatten(plain)), *(Facts(key, flatten(value)) for key, value in groups)]
    return tuple(part for part in parts if part.rows)


def flatten(values: Mapping[str, Any], prefix: str = "") -> tuple[Fact, ...]:
    """Write nested settings as one list of dotted names and values, by name."""
    rows: list[Fact] = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            rows.append(Fact(f"{prefix}{key}", _listed(value)))
        else:
            rows.append(Fact(f"{prefix}{key}", "none" if value is None else str(value)))
    return tuple(rows)


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(
        json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else str(value) for value in values[:30]
    )
    return shown + (f", ... ({len(values)} in all)" if len(values) > 30 else "")


def _failed(material: Material) -> list[Omission]:
    reasons = {leaf: material.store.failure(leaf) for leaf in sorted(material.store.leaves())}
    return [Omission("failed", leaf, reason) for leaf, reason in reasons.items() if reason is not None]


def _noted(material: Material) -> list[Omission]:
    """What stages say they did not look at; a count of nothing is no omission."""
    rows = []
    for leaf in sorted(material.store.leaves()):
        notes = material.notes(leaf)
        told = [(kind, _in_words(notes.get(kind))) for kind in _LEFT_OUT]
        rows += [Omission(kind.replace("_", " "), leaf, words) for kind, words in told if words]
    return rows


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = [(name, _in_words(item)) for name, item in sorted(value.items())]
        return ", ".join(f"{name}: {words}" for name, words in parts if words)
    if isinstance(value, (list, tuple)):
        return _listed(value)
    return str(value) if value else ""


def _sampled_data(material: Material) -> list[Omission]:
    notes = material.subject.get("data", {}).get("notes", {})
    audited, there = notes.get("audited"), notes.get("in_split")
    if audited is None or there is None or audited >= there:
        return []
    return [Omission("sampled", "data", f"{audited} of {there} images, the same share of every class (data.limit)")]
