"""Findings of all stages in the order in which a person should read them, those of a kind together."""

from __future__ import annotations

from dataclasses import dataclass

from ..stages.specs import Finding
from ..stages.verdicts.priority import rank
from .album import Album, Gallery
from .material import Material

SEVERITIES = ("error", "warning", "info")
_EVIDENCE = 6
#: How stages begin the last sentence of a finding.
_ADVICE = "What next: "


@dataclass(frozen=True)
class FindingCard:
    """A finding with the images that show it; its detail apart into what was seen and what to do next."""

    stage: str
    finding: Finding
    seen: str
    advice: str
    gallery: Gallery


@dataclass(frozen=True)
class FindingGroup:
    """The first finding of a kind, and those that say the same of other layers or classes."""

    first: FindingCard
    alike: tuple[FindingCard, ...]


def gather(material: Material) -> list[tuple[str, Finding]]:
    """Every finding with its stage: the gravest first, then in reading order, then as the stage ordered them."""
    found = [
        (leaf.partition("/")[0], finding)
        for leaf in sorted(material.store.leaves())
        if material.has(leaf)
        for finding in material.store.summary(leaf).findings
    ]
    return sorted(found, key=lambda item: (SEVERITIES.index(item[1].severity), rank(item[1].code)))


def group(album: Album, found: list[tuple[str, Finding]]) -> tuple[FindingGroup, ...]:
    """Put findings of one severity, stage and code together; the first of each kind is given pictures before others."""
    kinds: dict[tuple[str, str, str], list[tuple[str, Finding]]] = {}
    for stage, finding in found:
        kinds.setdefault((finding.severity, stage, finding.code), []).append((stage, finding))
    firsts = [_card(album, *members[0]) for members in kinds.values()]
    return tuple(
        FindingGroup(first, tuple(_card(album, *member) for member in members[1:]))
        for first, members in zip(firsts, kinds.values(), strict=True)
    )


def _card(album: Album, stage: str, finding: Finding) -> FindingCard:
    seen, _, advice = finding.detail.partition(_ADVICE)
    gallery = album.gallery("findings", finding.images, limit=_EVIDENCE)
    return FindingCard(stage, finding, seen.strip(), advice.strip(), gallery)
