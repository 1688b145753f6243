"""Puts a report together as plain data: the verdict, findings, one section per stage, what was left out."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..stages.specs import Finding, Measurement
from . import attention, findings, views
from .album import Album
from .attention import LayerNews
from .figures import number, with_unit
from .material import Material
from .views import provenance, verdicts

#: Reading order; any other stage follows by name.
ORDER = (
    "predictions",
    "confusion",
    "suspects",
    "mixing",
    "attributions",
    "faithfulness",
    "gaze",
    "neighbors",
    "embeddings",
    "weights",
    "receptive_fields",
    "filters",
    "ablation",
    "patches",
    "feature_maps",
    "activations",
    "features",
    "thumbnails",
)
#: Stages that look inside the network; the way into the walk stands before the first of them.
NETWORK = ("weights", "receptive_fields", "filters", "ablation", "patches", "feature_maps", "activations")
_FRAME = ("verdicts", "provenance")
#: Notes that say nothing beyond what the section shows anyway.
_NO_REMARK = ("n", "status", "unit")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A measurement as text."""

    name: str
    value: str
    interval: str
    n: str
    better: str
    meaning: str
    path: str


@dataclass(frozen=True)
class Failure:
    """A leaf that has no results, and why."""

    leaf: str
    reason: str


@dataclass(frozen=True)
class Section:
    """One stage.

    Parameters
    ----------
    noun, title, question
        Its name, and what it answers.
    asked
        Its settings.
    rows
        Its measurements.
    failures
        Its leaves that have no results.
    remarks
        What the stage itself says about how it worked.
    view
        What its template shows; None where nothing ran.
    arrays
        Where in the store its arrays lie.
    """

    noun: str
    title: str
    question: str
    asked: tuple[provenance.Fact, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    remarks: tuple[provenance.Fact, ...]
    view: object | None
    arrays: tuple[str, ...]


@dataclass(frozen=True)
class Headline:
    """A number worth knowing before all others."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    model: str
    data: str
    verdict: verdicts.VerdictView
    headlines: tuple[Headline, ...]
    findings: tuple[findings.FindingGroup, ...]
    n_finding: int
    findings_hidden: int
    sections: tuple[Section, ...]
    provenance: provenance.ProvenanceView
    album: Album
    attention: tuple[LayerNews, ...]


def assemble(material: Material, budgets: Mapping[str, int], default_budget: int) -> Report:
    """Read the store once, findings first, and keep what fits.

    Parameters
    ----------
    material
        Store and config.
    budgets
        Bytes of pictures by section.
    default_budget
        Bytes of every section that `budgets` does not name.
    """
    nouns = _nouns(material)
    album = Album(material, {noun: budgets.get(noun, default_budget) for noun in ("findings", *nouns)})
    found = findings.gather(material)
    shown = found[: material.limits.rows]
    groups = findings.group(album, shown)
    sections = tuple(_section(material, album, noun) for noun in nouns)
    known = {name for name in _view_names() if name not in _FRAME}
    trimmed = [provenance.Omission("not shown", "findings", f"{len(found) - len(shown)} more are in the store")]
    model, data = described(material)
    return Report(
        model=model,
        data=data,
        verdict=verdicts.view(material),
        headlines=_headlines(material, found),
        findings=groups,
        n_finding=len(found),
        findings_hidden=len(found) - len(shown),
        sections=sections,
        provenance=provenance.view(material, sorted(known - set(nouns)), trimmed if len(found) > len(shown) else ()),
        album=album,
        attention=attention.news(material),
    )


def _view_names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(views.__path__))


def _nouns(material: Material) -> tuple[str, ...]:
    """Stages to show: those with leaves in the store and those that were asked for by name, in reading order."""
    asked = material.config.get("stages")
    named = [str(name) for name in asked] if isinstance(asked, Sequence) and not isinstance(asked, str) else []
    present = {leaf.partition("/")[0] for leaf in material.store.leaves()} | {
        name for name in named if name in _view_names()
    }
    order = {noun: place for place, noun in enumerate(ORDER)}
    return tuple(sorted(present - set(_FRAME), key=lambda noun: (order.get(noun, len(order)), noun)))


def _section(material: Material, album: Album, noun: str) -> Section:
    module = _view_module(noun)
    leaves = material.leaves(noun)
    done = tuple(leaf for leaf in leaves if material.has(leaf))
    failures = [Failure(leaf, reason) for leaf in leaves if (reason := material.store.failure(leaf)) is not None]
    if not leaves:
        failures.append(Failure(noun, "the stage was asked for, but the store holds nothing of it"))
    drawn = None
    if module is not None and done:
        try:
            drawn = module.view(material, album)
        except Exception as error:  # a picture that cannot be drawn must not cost the reader all the others
            _LOG.exception("report section %s", noun)
            failures.append(
                Failure(noun, f"its results are stored, but could not be drawn: {type(error).__name__}: {error}")
            )
    return Section(
        noun=noun,
        title=getattr(module, "TITLE", noun.replace("_", " ").capitalize()),
        question=getattr(module, "QUESTION", ""),
        asked=_asked(material, noun),
        rows=tuple(_row(measurement) for leaf in done for measurement in material.store.summary(leaf).measurements),
        failures=tuple(failures),
        remarks=tuple(fact for leaf in done for fact in _remarks(material, leaf)),
        view=drawn,
        arrays=tuple(path for leaf in done for path in material.store.arrays(leaf)),
    )


def _view_module(noun: str) -> ModuleType | None:
    if noun not in _view_names():
        return None
    return importlib.import_module(f".views.{noun}", __package__)


def _row(measurement: Measurement) -> Row:
    bounded = measurement.low is not None and measurement.high is not None
    return Row(
        name=measurement.name,
        value=with_unit(measurement.value, measurement.unit),
        interval=f"{number(measurement.low)} to {number(measurement.high)}" if bounded else "",
        n=number(measurement.n),
        better={"higher": "more", "lower": "less", "neither": ""}[measurement.direction],
        meaning=measurement.meaning,
        path=measurement.path,
    )


def _asked(material: Material, noun: str) -> tuple[provenance.Fact, ...]:
    settings = material.config.get(noun)
    if not isinstance(settings, Mapping):
        return ()
    return tuple(fact for fact in provenance.flatten(settings) if fact.name != "_target_")


def _remarks(material: Material, leaf: str) -> list[provenance.Fact]:
    """Notes that are a sentence or a number; lists and tables among them have a place of their own."""
    prefix = f"{leaf}: " if "/" in leaf else ""
    return [
        provenance.Fact(prefix + key.replace("_", " "), value if isinstance(value, str) else number(value))
        for key, value in sorted(material.notes(leaf).items())
        if key not in _NO_REMARK
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
        and value != ""
    ]


def _headlines(material: Material, found: Sequence[tuple[str, Finding]]) -> tuple[Headline, ...]:
    rows = {
        measurement.name: measurement
        for leaf in material.leaves("predictions")
        if material.has(leaf)
        for measurement in material.store.summary(leaf).measurements
    }
    headlines = [
        Headline(title, number(rows[name].value), _bounds(rows[name]))
        for name, title in (("predictions/accuracy", "Accuracy"), ("predictions/mean_confidence", "Mean confidence"))
        if name in rows
    ]
    total = len(material.image_ids)
    bad = 0 if material.status is None else int((material.status > 0).sum())
    headlines.append(Headline("Images", number(total), f"{number(bad)} could not be read"))
    counts = [sum(finding.severity == severity for _, finding in found) for severity in findings.SEVERITIES]
    headlines.append(
        Headline(
            "Findings",
            number(len(found)),
            ", ".join(_plural(n, word) for n, word in zip(counts, ("error", "warning", "note"), strict=True)),
        )
    )
    return tuple(headlines)


def _plural(n: int, word: str) -> str:
    return f"{number(n)}\u00a0{word}" if n == 1 else f"{number(n)}\u00a0{word}s"


def _bounds(measurement: Measurement) -> str:
    if measurement.low is None or measurement.high is None:
        return f"n\u00a0=\u00a0{number(measurement.n)}"
    return f"95 %: {number(measurement.low)} to {number(measurement.high)}, n\u00a0=\u00a0{number(measurement.n)}"


def described(material: Material) -> tuple[str, str]:
    """Short names of the model and of the data."""
    return _described(material, "model"), _described(material, "data")


def _described(material: Material, what: str) -> str:
    """A short name of the model or the data."""
    stored = material.subject.get(what)
    asked = material.config.get(what)
    for source in (stored, asked):
        if isinstance(source, Mapping):
            for key in ("name", "builder", "factory", "uri", "dataset", "root", "path"):
                if isinstance(source.get(key), str) and source[key]:
                    return Path(source[key]).name or source[key]
    target = asked.get("_target_") if isinstance(asked, Mapping) else None
    return str(target).rpartition(".")[2] if target else what


def as_context(report: Report, *, walk: bool) -> dict[str, Any]:
    """What the page's template is given; `walk` says whether there is a walk to lead to."""
    inside = next((section.noun for section in report.sections if walk and section.noun in NETWORK), "")
    return {"report": report, "symbols": report.album.symbols, "network_before": inside}
