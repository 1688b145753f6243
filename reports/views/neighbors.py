"""What the nearest neighbors in feature space say of each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import figures
from ..album import Album, Gallery
from ..material import Material

TITLE = "Neighbors"
QUESTION = "Do images that the network takes for alike carry the same label?"
_NEIGHBORS = 5


@dataclass(frozen=True)
class Outcome:
    """How many images of one kind there are, and what that hints at."""

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
class NeighborsView:
    """Agreement of model, neighbors and label, and the images where they part."""

    outcomes: tuple[Outcome, ...]
    n: int
    queries: tuple[Query, ...]
    hidden: int


def view(material: Material, album: Album) -> NeighborsView:
    """Gather what the section shows: first images where model and neighbors agree against the label."""
    vote = material.array("neighbors/predicted").astype(int)
    judged = material.judged[vote[material.judged] >= 0]
    suspects = _suspects(material, vote, judged)
    queries = []
    for position in suspects[: max(1, material.limits.pictures // 2)]:
        gallery = _query(material, album, position)
        if not gallery.items:
            break
        queries.append(Query(material.class_name(int(vote[position])), gallery))
    return NeighborsView(_outcomes(material, vote, judged), len(judged), tuple(queries), len(suspects) - len(queries))


def _outcomes(material: Material, vote: np.ndarray, judged: np.ndarray) -> tuple[Outcome, ...]:
    if material.predicted is None:
        return ()
    label, model, near = material.labels[judged], material.predicted[judged], vote[judged]
    model_right, near_right = model == label, near == label
    return (
        Outcome("right", "right", int(np.sum(model_right & near_right)), "as it should be"),
        Outcome("right", "wrong", int(np.sum(model_right & ~near_right)), "unusual for its class"),
        Outcome(
            "wrong", "right", int(np.sum(~model_right & near_right)), "the last layer is at fault, not the features"
        ),
        Outcome("wrong", "the same wrong class", int(np.sum(~model_right & (near == model))), "look at the label"),
        Outcome(
            "wrong", "another wrong class", int(np.sum(~model_right & ~near_right & (near != model))), "a hard image"
        ),
    )


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
