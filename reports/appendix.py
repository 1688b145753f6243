"""Puts the pages beside the report together: what it has no room for, each page complete by itself."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType

from .album import Album
from .material import Material

#: Reading order. Each has a module in `pages` with a title, a question, ``applies`` and ``page``.
ORDER = ("network", "filters", "suspects")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """A page that the report leads to: its file name without the ending, what it is called and what it answers."""

    name: str
    title: str
    question: str


@dataclass(frozen=True)
class Page:
    """One page beside the report.

    Parameters
    ----------
    link
        Its name and words.
    view
        What its template shows; None where it could not be drawn.
    failure
        Why it could not be drawn; empty where it could.
    album
        Its pictures.
    """

    link: Link
    view: object | None
    failure: str
    album: Album


def links(material: Material) -> tuple[Link, ...]:
    """Name the pages that this run gives, in reading order; draws nothing."""
    return tuple(_link(name) for name in ORDER if _module(name).applies(material))


def draw(link: Link, material: Material, size: int) -> Page:
    """Draw one page.

    Parameters
    ----------
    link
        Which.
    material
        Store and config.
    size
        Bytes that it may have; the page shares them out.
    """
    album = Album(material, {})
    try:
        return Page(link, _module(link.name).page(material, album, size), "", album)
    except Exception as error:  # one page that cannot be drawn must not cost the reader the report
        _LOG.exception("page %s", link.name)
        return Page(
            link, None, f"what it shows is stored, but could not be drawn: {type(error).__name__}: {error}", album
        )


def _link(name: str) -> Link:
    module = _module(name)
    return Link(name, module.TITLE, module.QUESTION)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".pages.{name}", __package__)
