"""What covering and pasting each border cell did to a class that is suspected of a shortcut, with pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..stages.gaze.grids import place_name
from . import rasters
from .album import Album, Evidence, Frame
from .material import Material

# Pictures of each kind.
_EACH = 3


@dataclass(frozen=True)
class Trial:
    """One border cell: how many images lost the class, and became it; shares from 0 to 100 as bars."""

    place: str
    pixels: str
    lost: int
    won: int
    lost_bar: float
    won_bar: float
    marked: bool


@dataclass(frozen=True)
class Change:
    """An image before and after, as the network was given it.

    Parameters
    ----------
    evidence
        The image.
    frame
        Its picture.
    x, y, width, height
        The changed place, in user units of the picture.
    fill
        Colour that covers it; empty where something was pasted.
    patch
        Picture that was pasted; empty where it was covered.
    after
        What became of the class.
    """

    evidence: Evidence
    frame: Frame
    x: float
    y: float
    width: float
    height: float
    fill: str
    patch: str
    after: str


@dataclass(frozen=True)
class Shortcut:
    """A suspected class, and what the network did.

    Parameters
    ----------
    name
        The class.
    place
        Where it is recognised, or where its heatmaps lie if that was not confirmed.
    confirmed
        Whether the network falls for it.
    share, rest
        Share of the evidence there: of the class, and of the others.
    covered, pasted
        How many images were tried.
    trials
        Every border cell, in reading order.
    changes
        Some of the images, before and after.
    """

    name: str
    place: str
    confirmed: bool
    share: float
    rest: float
    covered: int
    pasted: int
    trials: tuple[Trial, ...]
    changes: tuple[Change, ...]


def shortcuts(material: Material, album: Album) -> tuple[Shortcut, ...]:
    """Every class that was tried; none where the trial failed."""
    if not (material.has("gaze/confirmation") and material.has("gaze/shortcuts")):
        return ()
    labels = material.array("gaze/shortcuts/class").astype(int)
    tried = material.array("gaze/confirmation/covered").astype(int)
    return tuple(_shortcut(material, album, int(row)) for row in np.flatnonzero((labels >= 0) & (tried >= 0)))


def _shortcut(material: Material, album: Album, row: int) -> Shortcut:
    cells = material.array("gaze/shortcuts/border_cell").astype(int)
    suspected = np.flatnonzero((cells == material.row("gaze/shortcuts/cell", row)).all(axis=1))[0]
    confirmed = int(material.row("gaze/confirmation/confirmed", row))
    shown = confirmed if confirmed >= 0 else int(suspected)
    grid = material.notes("gaze/shortcuts")["grid"]
    return Shortcut(
        name=_name(material, row),
        place=place_name(cells[shown], grid),
        confirmed=confirmed >= 0,
        share=float(material.row("gaze/shortcuts/share", row)),
        rest=float(material.row("gaze/shortcuts/rest", row)),
        covered=int(material.row("gaze/confirmation/covered", row)),
        pasted=int(material.row("gaze/confirmation/pasted", row)),
        trials=tuple(_trial(material, row, cell, cells, shown) for cell in range(len(cells))),
        changes=_changes(material, album, row, shown),
    )


def _name(material: Material, row: int) -> str:
    name, group = (material.row(f"gaze/shortcuts/{column}", row) for column in ("class", "group"))
    return material.class_name(int(name)) + (f", group {int(group) + 1}" if group >= 0 else "")


def _trial(material: Material, row: int, cell: int, cells: np.ndarray, shown: int) -> Trial:
    lost, won = (int(material.row(f"gaze/confirmation/{kind}", row)[cell]) for kind in ("lost", "won"))
    tried = [max(1, int(material.row(f"gaze/confirmation/{kind}", row))) for kind in ("covered", "pasted")]
    box = material.row("gaze/shortcuts/box", cell).astype(int)
    axes = material.subject.get("axes", [])
    return Trial(
        place=place_name(cells[cell], material.notes("gaze/shortcuts")["grid"]),
        pixels=", ".join(f"{axis} {a} to {b - 1}" for axis, (a, b) in zip(axes, box, strict=False)),
        lost=lost,
        won=won,
        lost_bar=round(100 * lost / tried[0], 1),
        won_bar=round(100 * won / tried[1], 1),
        marked=cell == shown,
    )


def _changes(material: Material, album: Album, row: int, cell: int) -> tuple[Change, ...]:
    """Images before and after; none of signals, in which a covered stretch is no picture."""
    if "thumbnails/image" not in (material.store.arrays("thumbnails") if material.has("thumbnails") else ()):
        return ()
    notes = material.notes("gaze/confirmation")
    changes = []
    for kind in ("lost", "won"):
        for position in notes.get(kind, {}).get(str(row), [])[:_EACH]:
            evidence = album.evidence("gaze", int(position), ())
            if evidence is None or not evidence.frames:
                return tuple(changes)
            changes.append(_change(material, album, row, cell, int(position), evidence, kind))
    return tuple(changes)


def _change(
    material: Material, album: Album, row: int, cell: int, position: int, evidence: Evidence, kind: str
) -> Change:
    frame, box = evidence.frames[0], material.row("gaze/shortcuts/box", cell).astype(int)
    space = material.subject["input_shape"][1:]
    tall, wide = frame.height / space[0], frame.width / space[1]
    name = material.class_name(int(material.row("gaze/shortcuts/class", row)))
    patch = _patch(material, row, box) if kind == "won" else ""
    if patch and not album.spend("gaze", len(patch)):
        patch = ""
    return Change(
        evidence=evidence,
        frame=frame,
        x=round(float(box[1, 0] * wide), 1),
        y=round(float(box[0, 0] * tall), 1),
        width=round(float((box[1, 1] - box[1, 0]) * wide), 1),
        height=round(float((box[0, 1] - box[0, 0]) * tall), 1),
        fill=_colour(material, position, box, space) if kind == "lost" else "",
        patch=patch,
        after=f"covered: no longer {name}" if kind == "lost" else f"pasted: now {name}",
    )


def _colour(material: Material, position: int, box: np.ndarray, space: list[int]) -> str:
    """Mean colour of a picture's outermost pixels outside of the box, as the network was given it."""
    picture = material.row("thumbnails/image", position).astype(float)
    ring = np.ones(picture.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    scale = [length / n for length, n in zip(picture.shape[1:], space, strict=True)]
    inside = tuple(slice(round(a * by), round(b * by)) for (a, b), by in zip(box, scale, strict=True))
    ring[inside] = False
    colour = picture[:, ring].mean(axis=1) if ring.any() else picture.mean(axis=(1, 2))
    red, green, blue = np.rint(colour if len(colour) == 3 else np.repeat(colour[:1], 3)).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _patch(material: Material, row: int, box: np.ndarray) -> str:
    """What was pasted, in the colours of the pictures."""
    inside = (slice(None), *(slice(int(a), int(b)) for a, b in box))
    mean = material.row("gaze/patches/mean", row)[inside].astype(float)
    scale, shift = (np.asarray(material.subject[key], float)[:, None, None] for key in ("std", "mean"))
    pixels = np.rint(np.clip(np.nan_to_num(mean * scale + shift) * 255, 0, 255)).astype(np.uint8)
    return rasters.data_uri(*rasters.encode_image(pixels))
