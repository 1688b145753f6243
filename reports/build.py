"""The report and the pages beside it, a function of store and config alone, and tonight's cover page, which is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..stages.errors import ConfigError
from . import appendix, figures, sections
from .material import Limits, Material, Remembering, Store
from .views import verdicts

#: Folder of the pages beside the report; the links between them count on it.
PAGES = "pages"
#: How often a page is drawn until it fits; its frame alone takes some 20 kB, whatever it was given.
_ATTEMPTS = 4
_ROOT = Path(__file__).parent
_LINK_SCHEMES = ("", "http", "https", "file")


@dataclass(frozen=True)
class ReportOptions:
    """How much the report shows.

    Parameters
    ----------
    budget_kb
        Kilobytes of pictures that a section may add, by section name ("findings" is one of them).
    default_budget_kb
        The same for every section that `budget_kb` does not name.
    rows
        Longest table, and most findings.
    pictures
        Most pictures in one gallery.
    page_kb
        Kilobytes that each page beside the report may have, pictures and text together.

    Raises
    ------
    ConfigError
        When a number is negative, or there would be no row at all.
    """

    budget_kb: Mapping[str, int] = field(default_factory=dict)
    default_budget_kb: int = 250
    rows: int = 60
    pictures: int = 12
    page_kb: int = 4000

    def __post_init__(self) -> None:
        for name, value in {"default_budget_kb": self.default_budget_kb, **self.budget_kb}.items():
            if value < 0:
                raise ConfigError(f"report.{name}: expected 0 kB or more, got {value}")
        for name, value, least in (
            ("rows", self.rows, 1),
            ("pictures", self.pictures, 0),
            ("page_kb", self.page_kb, 0),
        ):
            if value < least:
                raise ConfigError(f"report.{name}: expected {least} or more, got {value}")


@dataclass(frozen=True)
class StageTime:
    """What one stage took tonight.

    Parameters
    ----------
    stage
        Its name.
    seconds
        Wall time; None where it was not measured by itself.
    images
        Images it went through; None for work that looks at none.
    state
        What became of it: "done", "reused", "failed", ...
    """

    stage: str
    seconds: float | None
    images: int | None = None
    state: str = "done"


@dataclass(frozen=True)
class _TimeRow:
    stage: str
    state: str
    seconds: str
    images: str
    rate: str


@dataclass(frozen=True)
class _Link:
    text: str
    href: str


def build_report(store: Store, config: Mapping[str, Any], options: ReportOptions | None = None) -> str:
    """Write the report of one run as one self-contained HTML page.

    Parameters
    ----------
    store
        The run's results, read only.
    config
        The resolved config as plain mappings, lists and values. Where and how the run took place (cluster, tracking,
        run folder) is ignored.
    options
        How much to show.

    Returns
    -------
    str
        The page; equal store and config give equal text.

    Raises
    ------
    ConfigError
        When `options` is something else.
    """
    options = _checked(options)
    material = Material(Remembering(store), config, Limits(options.rows, options.pictures))
    budgets = {name: 1024 * size for name, size in options.budget_kb.items()}
    report = sections.assemble(material, budgets, 1024 * options.default_budget_kb)
    links = appendix.links(material)
    walk = any(link.name == "network" for link in links)
    return _render("report.html.j2", pages=links, **sections.as_context(report, walk=walk))


def build_pages(store: Store, config: Mapping[str, Any], options: ReportOptions | None = None) -> dict[str, str]:
    """Write the pages beside the report: what it has no room for, and an index of them.

    Parameters
    ----------
    store, config, options
        As for `build_report`, which leads to these pages.

    Returns
    -------
    dict
        Self-contained HTML by file name, for a folder ``pages`` beside the report; ``index.html`` is always there.
        Equal store and config give equal text.

    Raises
    ------
    ConfigError
        When `options` is something else.
    """
    options = _checked(options)
    material = Material(Remembering(store), config, Limits(options.rows, options.pictures))
    run = sections.described(material)
    links = appendix.links(material)
    written = {f"{link.name}.html": _fitted(link, material, 1024 * options.page_kb, run, links) for link in links}
    sizes = {name: figures.number(round(len(text.encode()) / 1024)) for name, text in written.items()}
    return {"index.html": _render("index.html.j2", run=run, pages=links, sizes=sizes, symbols=())} | written


def _fitted(
    link: appendix.Link, material: Material, size: int, run: tuple[str, str], links: tuple[appendix.Link, ...]
) -> str:
    """Draw one page, with less on it where the text around the pictures took more bytes than it was given."""
    text, given = "", size
    for _ in range(_ATTEMPTS):
        page = appendix.draw(link, material, given)
        text = _render("page.html.j2", page=page, run=run, pages=links, symbols=page.album.symbols)
        excess = len(text.encode()) - size
        if excess <= 0:
            break
        given = max(0, int(given * size / (size + 1.1 * excess)))
    return text


def _checked(options: ReportOptions | None) -> ReportOptions:
    options = ReportOptions() if options is None else options
    if not isinstance(options, ReportOptions):
        raise ConfigError(f"report._target_: expected a ReportOptions, got {type(options).__name__}")
    return options


def build_nightly(
    verdict: Mapping[str, Any],
    timings: Sequence[StageTime],
    git: Mapping[str, str],
    links: Mapping[str, str],
    facts: Mapping[str, str] | None = None,
) -> str:
    """Write tonight's cover page: the verdict, what each stage took, the state of the code, where to read on.

    Parameters
    ----------
    verdict
        ``verdict`` and ``gates`` as the verdicts stage noted them.
    timings
        Stages in the order in which they ran.
    git
        State of the repository, by name; empty outside of one.
    links
        Address by text: relative, http(s) or file; any other is shown as text.
    facts
        Anything else that belongs to tonight (date, host, workers), by name.
    """
    return _render(
        "nightly.html.j2",
        verdict=verdicts.from_notes(verdict),
        times=tuple(_time_row(row) for row in timings),
        total=_seconds(sum(row.seconds or 0.0 for row in timings)),
        git=tuple(git.items()),
        facts=tuple((facts or {}).items()),
        links=tuple(
            _Link(text, href if urlsplit(href).scheme in _LINK_SCHEMES else "") for text, href in links.items()
        ),
        addresses=dict(links),
        symbols=(),
    )


def _time_row(row: StageTime) -> _TimeRow:
    measured = row.seconds is not None and row.seconds > 0 and row.images
    rate = figures.number(round(row.images / row.seconds, 1)) if measured and row.images and row.seconds else ""
    images = "" if row.images is None else figures.number(row.images)
    return _TimeRow(row.stage, row.state, "" if row.seconds is None else _seconds(row.seconds), images, rate)


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_ROOT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = figures.number
    environment.filters["stage_template"] = _stage_template
    environment.filters["page_template"] = "{}_page.html.j2".format
    environment.filters["layer_template"] = "{}_layer.html.j2".format
    environment.globals["stylesheet"] = Markup((_ROOT / "static" / "report.css").read_text(encoding="utf-8"))
    environment.globals["explorer"] = Markup((_ROOT / "static" / "explore.js").read_text(encoding="utf-8"))
    environment.globals["sorter"] = Markup((_ROOT / "static" / "sort.js").read_text(encoding="utf-8"))
    return environment


def _stage_template(noun: str) -> list[str]:
    """Templates to try for a stage: its own, then the one for stages that have none."""
    return [f"{noun}.html.j2", "plain.html.j2"]
