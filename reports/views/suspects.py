"""Labels that head and neighbors both speak against, with the pictures that let a person decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import figures
from ..album import Album, Gallery
from ..material import Material
from ..reliability import interval
from .provenance import Fact

TITLE = "Label suspects"
QUESTION = "Which labels may be wrong?"
#: Code of an image that both signals speak against.
BOTH = 3
_NEIGHBORS, _ROW_BYTES = 5, 900
_SIGNALS = (
    ("both", "Both: suspects", "look at the label, first of all"),
    ("head", "The head alone", "an image unlike its class to the last layer, among neighbors of its label"),
    ("neighbors", "The neighbors alone", "an image at the edge of its class, or wrong labels of its neighbors"),
    ("neither", "Neither", "nothing to do"),
)


@dataclass(frozen=True)
class Suspect:
    """One label, what speaks against it, and the image with its nearest neighbors.

    Parameters
    ----------
    rank
        From 1, the strongest.
    image
        Name of the image.
    label, proposal
        Class that the label names, and the one that head and neighbors both give; empty where they differ.
    answer, confidence, own
        What the head says, how sure, and the probability it gives to the label.
    vote, others
        What the neighbors vote for, and the share of them that bear another label.
    gallery
        The image first, then neighbors.
    """

    rank: int
    image: str
    label: str
    proposal: str
    answer: str
    confidence: float
    own: float
    vote: str
    others: float
    gallery: Gallery


@dataclass(frozen=True)
class Signal:
    """How many labels how many signals speak against, and what that hints at."""

    name: str
    n: int
    hint: str


@dataclass(frozen=True)
class GroupRow:
    """Suspects of one label or value: how many of how many judged ones, 95 % bounds, and the class most proposed."""

    name: str
    n: int
    suspects: int
    share: float
    interval: str
    bar: float
    proposal: str


@dataclass(frozen=True)
class Groups:
    """Labels, or the values of one column, with most suspects first; `hidden` are those for which no room was left."""

    title: str
    rows: tuple[GroupRow, ...]
    hidden: int


@dataclass(frozen=True)
class SuspectsView:
    """What the section shows.

    Parameters
    ----------
    reason
        Why there is nothing; empty where there is.
    signals, n
        Labels by what speaks against them, and all that were judged.
    suspects, hidden, full
        The first suspects, how many more there are, and whether bytes set the limit.
    groups
        Suspects by class and slice.
    moved
        Labels that may stand for another class as a whole.
    limits
        How far to trust the list.
    definitions
        What the words and numbers mean.
    """

    reason: str
    signals: tuple[Signal, ...]
    n: int
    suspects: tuple[Suspect, ...]
    hidden: int
    full: bool
    groups: tuple[Groups, ...]
    moved: tuple[str, ...]
    limits: tuple[Fact, ...]
    definitions: tuple[Fact, ...]


def view(material: Material, album: Album) -> SuspectsView:
    """Gather what the section shows: the strongest suspects first."""
    return gathered(material, album, max(1, material.limits.pictures // 2))


def gathered(material: Material, album: Album, most: int) -> SuspectsView:
    """Gather as many suspects as the section's budget allows, and at most so many."""
    notes = material.notes("suspects")
    if "signals" not in notes:
        return SuspectsView(str(notes.get("reason", "nothing was judged")), (), 0, (), 0, False, (), (), (), ())
    wanted = ranked(material)
    shown: list[Suspect] = []
    for position in wanted[:most]:
        found = _suspect(material, album, position)
        if found is None:
            break
        shown.append(found)
    counts = notes["signals"]
    return SuspectsView(
        reason="",
        signals=tuple(Signal(name, int(counts[key]), hint) for key, name, hint in _SIGNALS),
        n=int(notes["n"]),
        suspects=tuple(shown),
        hidden=len(wanted) - len(shown),
        full=len(shown) < min(most, len(wanted)),
        groups=_groups(material, notes),
        moved=tuple(_moved(material, row) for row in notes.get("moved", ())),
        limits=_limits(notes["limits"], notes.get("unjudged", {})),
        definitions=tuple(Fact(word, str(said)) for word, said in notes.get("definitions", {}).items()),
    )


def ranked(material: Material) -> list[int]:
    """Positions of all suspects, the strongest first."""
    suspects = np.flatnonzero(material.array("suspects/signal") == BOTH)
    return suspects[np.argsort(material.array("suspects/rank")[suspects], kind="stable")].tolist()


def _suspect(material: Material, album: Album, position: int) -> Suspect | None:
    if not album.spend("suspects", _ROW_BYTES):
        return None
    gallery = _pictures(material, album, position)
    if not gallery.items:
        return None

    def one(path: str) -> Any:
        return material.row(path, position)

    proposal = int(one("suspects/proposal"))
    return Suspect(
        rank=int(one("suspects/rank")),
        image=material.image_ids[position],
        label=material.class_name(int(material.labels[position])),
        proposal=material.class_name(proposal) if proposal >= 0 else "",
        answer=material.class_name(int(one("predictions/predicted"))),
        confidence=float(one("predictions/confidence")),
        own=float(one("suspects/self_confidence")),
        vote=material.class_name(int(one("neighbors/predicted"))),
        others=float(one("suspects/disagreement")),
        gallery=gallery,
    )


def _pictures(material: Material, album: Album, position: int) -> Gallery:
    index = material.row("neighbors/index", position)[:_NEIGHBORS]
    distance = material.row("neighbors/distance", position)[:_NEIGHBORS]
    near = {
        int(other): f"distance {figures.number(round(float(value), 4))}"
        for other, value in zip(index, distance, strict=True)
        if other >= 0
    }
    return album.gallery("suspects", [position, *near], heat=0, limit=1 + len(near), notes={position: "suspect"} | near)


def _groups(material: Material, notes: Mapping[str, Any]) -> tuple[Groups, ...]:
    most = material.limits.rows
    rows = [
        _group(row, material.class_name(row["class"]), material.class_name(row["proposal"]))
        for row in notes.get("classes", ())
        if row["suspects"]
    ]
    rows.sort(key=lambda row: (-row.share, -row.suspects, row.name))
    found = [Groups("Label", tuple(rows[:most]), max(0, len(rows) - most))]
    for told in notes.get("slices", ()):
        held = [row for row in told["values"] if row["suspects"]]
        cut = [_group(row, str(row["value"]) or "no value", "") for row in held[:most]]
        found.append(Groups(str(told["column"]), tuple(cut), max(0, len(held) - most)))
    return tuple(table for table in found if table.rows)


def _group(row: Mapping[str, Any], name: str, proposal: str) -> GroupRow:
    n, suspects = int(row["n"]), int(row["suspects"])
    named = f"{proposal} ({row['proposed']})" if proposal and row.get("proposed") else ""
    share = suspects / n
    return GroupRow(name, n, suspects, share, interval(row.get("bounds")), round(100 * share, 1), named)


def _moved(material: Material, row: Mapping[str, Any]) -> str:
    names = material.class_name(row["label"]), material.class_name(row["answer"])
    absent = "; no label names that class" if row["absent"] else ""
    return f"{row['count']} of {row['n']} images labelled {names[0]} are answered {names[1]}{absent}"


def _limits(notes: Mapping[str, Any], unjudged: Mapping[str, int]) -> tuple[Fact, ...]:
    left_out = ", ".join(f"{figures.number(n)} {reason}" for reason, n in unjudged.items() if n)
    said = (
        ("How many are errors", notes.get("precision", "")),
        (
            "What else explains them",
            f"The network answers {figures.number(notes['answered_otherwise'])} images otherwise than their label; "
            f"where all labels are right, each suspect is an error of the model. Signals that know nothing of each "
            f"other would share {figures.number(round(notes['by_chance'], 1))}.",
        ),
        ("Same proposal", f"{figures.number(notes['agreed'])} suspects, of head and neighbors"),
        ("Confident learning's estimate", f"{figures.number(notes['estimated'])} wrong labels, errors of the model "
         "included"),
        ("Training", notes.get("training", "")),
        ("Not judged", left_out),
        ("Doubt", notes.get("doubt", "")),
    )  # fmt: skip
    return tuple(Fact(name, str(text)) for name, text in said if text)
