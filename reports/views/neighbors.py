"""What the nearest neighbors in feature space say of each image, of its copies, and of the whole space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import figures
from ..album import Album, Gallery
from ..material import Material

TITLE = "Neighbors"
QUESTION = "Do images that the network takes for alike carry the same label, and which are the same picture?"
_NEIGHBORS, _GROUPS, _MEMBERS, _FAR = 5, 4, 4, 6

#: Side of the triangle, model, neighbors, and what that hints at; those to look at come first.
_SIDES = (
    ("suspect", "wrong", "the same wrong class", "look at the label"),
    ("neighbors_only", "wrong", "right", "the last layer is at fault, not the features"),
    ("head_only", "right", "wrong", "unusual for its class"),
    ("hard", "wrong", "another wrong class", "a hard image"),
    ("both_right", "right", "right", "as it should be"),
)


@dataclass(frozen=True)
class Copies:
    """Pictures that occur more than once.

    Parameters
    ----------
    title, meaning
        What they have in common.
    array
        Where in the store they all are.
    groups
        A gallery for each group.
    hidden
        How many groups are not shown.
    """

    title: str
    meaning: str
    array: str
    groups: tuple[Gallery, ...]
    hidden: int


@dataclass(frozen=True)
class Outcome:
    """How many images of one side of the triangle there are, and what that hints at."""

    model: str
    vote: str
    n: int
    hint: str


@dataclass(frozen=True)
class Query:
    """An image and its nearest neighbors."""

    vote: str
    gallery: Gallery


@dataclass(frozen=True)
class Share:
    """Purity and accuracies of one class or slice; None where nothing was judged. `bar` is the purity in per cent."""

    name: str
    n: int
    purity: float | None
    accuracy: float | None
    head: float | None
    bar: float


@dataclass(frozen=True)
class Shares:
    """Classes, or the values of one slice column: the least pure first."""

    title: str
    rows: tuple[Share, ...]
    hidden: int


@dataclass(frozen=True)
class Depth:
    """Accuracy of the neighbors in one layer."""

    layer: str
    n: int
    accuracy: float | None


@dataclass(frozen=True)
class NeighborsView:
    """What the section shows, in its order."""

    copies: tuple[Copies, ...]
    outcomes: tuple[Outcome, ...]
    n: int
    queries: tuple[Query, ...]
    hidden: int
    shares: tuple[Shares, ...]
    depths: tuple[Depth, ...]
    outliers: Gallery | None
    hubs: Gallery | None
    proof: str


def view(material: Material, album: Album) -> NeighborsView:
    """Gather what the section shows: copies first, then images where model and neighbors agree against the label."""
    notes = material.notes("neighbors")
    vote = material.array("neighbors/predicted").astype(int)
    judged = material.judged[vote[material.judged] >= 0]
    copies = _copies(material, album, notes)
    suspects = _suspects(material, vote, judged)
    queries = []
    for position in suspects[: max(1, material.limits.pictures // 2)]:
        gallery = _query(material, album, position)
        if not gallery.items:
            break
        queries.append(Query(material.class_name(int(vote[position])), gallery))
    return NeighborsView(
        copies=copies,
        outcomes=_outcomes(material, vote, judged),
        n=len(judged),
        queries=tuple(queries),
        hidden=len(suspects) - len(queries),
        shares=_shares(material, notes),
        depths=_depths(notes, vote, judged, material),
        outliers=_placed(album, notes.get("outliers", ()), "k-th neighbor at {}"),
        hubs=_placed(album, notes.get("hubs", ()), "neighbor of {} images"),
        proof=_proof(notes),
    )


def _copies(material: Material, album: Album, notes: Mapping[str, Any]) -> tuple[Copies, ...]:
    split = _splits(material)
    kinds = (
        ("The same file", "Equal content digests.", "copy", "duplicates", "duplicate_groups"),
        ("Nearly the same picture", str(notes.get("near_definition", "")), "near", "near_duplicates", "near_groups"),
    )
    found = []
    for title, meaning, array, key, total in kinds:
        shown = []
        for group in notes.get(key, ())[:_GROUPS]:
            said = {position: f"split {split[position]}" for position in group if split[position]}
            gallery = album.gallery("neighbors", group, heat=0, limit=_MEMBERS, notes=said)
            if not gallery.items:
                break
            shown.append(gallery)
        if notes.get(key):
            found.append(Copies(title, meaning, array, tuple(shown), int(notes.get(total, 0)) - len(shown)))
    return tuple(found)


def _splits(material: Material) -> Sequence[str]:
    images = material.store.images()
    return tuple(map(str, images["split"].fillna(""))) if "split" in images else ("",) * len(images)


def _outcomes(material: Material, vote: np.ndarray, judged: np.ndarray) -> tuple[Outcome, ...]:
    if material.predicted is None:
        return ()
    label, model, near = material.labels[judged], material.predicted[judged], vote[judged]
    head, voted = model == label, near == label
    sides = {
        "both_right": head & voted,
        "head_only": head & ~voted,
        "neighbors_only": ~head & voted,
        "suspect": ~head & (near == model),
        "hard": ~head & ~voted & (near != model),
    }
    return tuple(Outcome(said, heard, int(np.sum(sides[side])), hint) for side, said, heard, hint in _SIDES)


def _suspects(material: Material, vote: np.ndarray, judged: np.ndarray) -> list[int]:
    """Images whose neighbors contradict the label: those where the model does so too come first, surest first."""
    against = judged[vote[judged] != material.labels[judged]]
    if material.predicted is None or material.confidence is None:
        return [int(position) for position in against]
    joint = material.predicted[against] == vote[against]
    return [int(position) for position in against[np.lexsort((against, -material.confidence[against], ~joint))]]


def _query(material: Material, album: Album, position: int) -> Gallery:
    index = material.row("neighbors/index", position)[:_NEIGHBORS]
    distance = material.row("neighbors/distance", position)[:_NEIGHBORS]
    near = [int(neighbor) for neighbor in index if neighbor >= 0]
    notes = {
        neighbor: f"distance {figures.number(round(float(value), 4))}"
        for neighbor, value in zip(near, distance, strict=False)
    }
    return album.gallery("neighbors", [position, *near], heat=0, notes={position: "query"} | notes)


def _shares(material: Material, notes: Mapping[str, Any]) -> tuple[Shares, ...]:
    found = []
    for title, rows in [("Class", notes.get("purity", ())), *dict(notes.get("slices", {})).items()]:
        judged = sorted((row for row in rows if row["n"]), key=lambda row: (row["purity"], str(row["value"])))
        most = material.limits.rows
        if judged:
            found.append(Shares(title, tuple(map(_share, judged[:most])), max(0, len(judged) - most)))
    return tuple(found)


def _share(row: Mapping[str, Any]) -> Share:
    name = str(row.get("name", row["value"])) or "(none)"
    return Share(name, row["n"], row["purity"], row["accuracy"], row["head"], round(100 * row["purity"], 1))


def _depths(notes: Mapping[str, Any], vote: np.ndarray, judged: np.ndarray, material: Material) -> tuple[Depth, ...]:
    """Layers in the order of the forward pass; none where only one was asked for."""
    if not notes.get("further"):
        return ()
    right = float(np.mean(vote[judged] == material.labels[judged]))
    own = {"layer": notes["layer"], "n": len(judged), "accuracy": right}
    rows = [own, *notes["further"]] if len(judged) else notes["further"]
    ordered = sorted(rows, key=lambda row: material.layer_order.get(row["layer"], len(material.layer_order)))
    return tuple(Depth(row["layer"], row["n"], row["accuracy"]) for row in ordered)


def _placed(album: Album, rows: Sequence[Sequence[Any]], said: str) -> Gallery | None:
    notes = {int(image): said.format(figures.number(value)) for image, value in rows[:_FAR]}
    return album.gallery("neighbors", notes, heat=0, limit=_FAR, notes=notes) if notes else None


def _proof(notes: Mapping[str, Any]) -> str:
    searched = notes.get("searched", {})
    return ", ".join(f"{figures.number(n)} by {word}" for word, n in searched.items())
