"""Where the network looks over the whole data set, and which classes hang on something at the border."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import figures, rasters
from ..album import Album, Gallery
from ..material import Material
from ..shortcuts import Shortcut, shortcuts

TITLE = "Gaze"
QUESTION = "Where in its images is each class recognised, and does one of them hang on something at the border?"
_PANELS, _PAIRS, _CLASSES, _MEMBERS = 24, 12, 4, 4
# Longest side of a mean heatmap in pixels; on the page it is hardly larger.
_SIDE, _STRIP = 56, 14


@dataclass(frozen=True)
class Panel:
    """A mean heatmap.

    Parameters
    ----------
    name, detail
        Whose it is, and on what it rests.
    href
        The picture.
    width, height
        Its size in user units.
    centre
        Path of a cross at the centre of mass; empty where there is none.
    alt
        The picture in one sentence.
    """

    name: str
    detail: str
    href: str
    width: int
    height: int
    centre: str
    alt: str

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return len(self.href) + 500


@dataclass(frozen=True)
class Border:
    """Share of a class's evidence in the outer ring, with its interval, as text and as parts of a bar."""

    name: str
    n: int
    blank: int
    share: float
    interval: str
    bar: float
    bar_low: float
    bar_width: float
    centre: str
    spread: float


@dataclass(frozen=True)
class Group:
    """One group of heatmaps within a class: its mean, and images that are closest to it."""

    panel: Panel
    gallery: Gallery


@dataclass(frozen=True)
class Ways:
    """The groups of one class."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class GazeView:
    """What the section shows.

    Parameters
    ----------
    shortcuts
        Classes that were tried on the network.
    panels, pairs
        Mean heatmaps of classes and of confused pairs, most on the border first.
    panels_hidden, pairs_hidden
        How many there are besides.
    borders, borders_hidden
        The same classes as a table, and how many more there are.
    ways, ways_hidden
        Classes with several groups of heatmaps, and how many more there are.
    ramp, peak
        Picture of the one colour scale, and what its dark end means.
    outer
        Share of the image's area that the outer ring covers.
    """

    shortcuts: tuple[Shortcut, ...]
    panels: tuple[Panel, ...]
    panels_hidden: int
    pairs: tuple[Panel, ...]
    pairs_hidden: int
    borders: tuple[Border, ...]
    borders_hidden: int
    ways: tuple[Ways, ...]
    ways_hidden: int
    ramp: str
    peak: str
    outer: float


def view(material: Material, album: Album) -> GazeView | None:
    """Gather what the section shows; None where the heatmaps could not be averaged."""
    if not material.has("gaze/classes"):
        return None
    means = _Means(material)
    tried = shortcuts(material, album)
    first = [int(label) for label in means.suspected]
    order = sorted(means.classes, key=lambda row: (row not in first, -means.border[row], row))
    panels, pairs = (
        _affordable(album, (means.panel(row) for row in rows)) for rows in (order[:_PANELS], means.pairs[:_PAIRS])
    )
    ways = _ways(material, album, means)
    shown = order[: material.limits.rows]
    return GazeView(
        shortcuts=tried,
        panels=panels,
        panels_hidden=len(order) - len(panels),
        pairs=pairs,
        pairs_hidden=len(means.pairs) - len(pairs),
        borders=tuple(means.line(row) for row in shown),
        borders_hidden=len(order) - len(shown),
        ways=ways,
        ways_hidden=len(means.several) - len(ways),
        ramp=rasters.data_uri("image/png", rasters.encode_matrix(np.linspace(0, 1, 64)[None])),
        peak=f"{means.peak:.1%}",
        outer=means.outer(),
    )


class _Means:
    """The table of mean heatmaps, and how one of them is drawn."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.notes = material.notes("gaze/classes")
        self.edges = [np.asarray(edge, float) for edge in self.notes["edges"]]
        self.sides = material.array("gaze/classes/group").astype(int)
        self.n = material.array("gaze/classes/n").astype(int)
        self.heatmap = material.array("gaze/classes/heatmap").astype(float)
        self.border = material.array("gaze/classes/group_border").astype(float)
        seen = np.flatnonzero((self.n > 0) & (self.sides[:, 0] >= 0))
        self.classes = [int(row) for row in seen if self.sides[row, 0] == self.sides[row, 1]]
        self.pairs = [int(row) for row in seen if self.sides[row, 0] != self.sides[row, 1]]
        self.peak = float(np.nanmax(self.heatmap[seen])) if len(seen) else 1.0
        labels = material.array("gaze/shortcuts/class").astype(int) if material.has("gaze/shortcuts") else []
        self.suspected = [int(label) for label in labels if label >= 0]
        self.several = self._several()

    def _several(self) -> list[int]:
        """Classes with more than one group: suspected ones first, then by the share of images outside the largest."""
        if not self.material.has("gaze/clusters"):
            return []
        size = self.material.array("gaze/clusters/size").astype(int)
        several = np.flatnonzero((size > 0).sum(axis=1) > 1)
        rest = 1 - size[:, 0] / np.maximum(size.sum(axis=1), 1)
        return sorted(map(int, several), key=lambda label: (label not in self.suspected, -rest[label], label))

    def outer(self) -> float:
        """Share of the area that the outer ring of cells covers."""
        inner = [(edge[-2] - edge[1]) / edge[-1] if len(edge) > 3 else 0.0 for edge in self.edges]
        return 1 - math.prod(inner)

    def panel(self, row: int) -> Panel:
        """Draw the mean heatmap of a class or of a pair."""
        label, prediction = (self.material.class_name(int(side)) for side in self.sides[row])
        name = label if label == prediction else f"{label} taken for {prediction}"
        centre = self.material.row("gaze/classes/group_centre", row)
        detail = f"{figures.number(int(self.n[row]))} {'image' if self.n[row] == 1 else 'images'}"
        return self.drawn(self.heatmap[row], name, f"{detail}, {self.border[row]:.0%} on the border", centre)

    def drawn(self, heatmap: np.ndarray, name: str, detail: str, centre: np.ndarray | None = None) -> Panel:
        """Draw shares of evidence, every cell where it lies in the image."""
        lengths = [float(edge[-1]) for edge in self.edges]
        sides = [max(1, round(_SIDE * length / max(lengths))) for length in lengths]
        values = np.asarray(heatmap, float) / self.peak
        for axis, (edge, side) in enumerate(zip(self.edges, sides, strict=True)):
            widths = np.diff(np.rint(edge * side / edge[-1]).astype(int))
            values = np.repeat(values, widths, axis=axis)
        height, width = (sides[0], sides[1]) if len(sides) == 2 else (_STRIP, sides[0])
        href = rasters.data_uri("image/png", rasters.encode_matrix(np.atleast_2d(values)))
        return Panel(
            name, detail, href, width, height, _cross(centre, width, height), f"Mean heatmap of {name}, {detail}"
        )

    def line(self, row: int) -> Border:
        """One line of the table of border shares."""
        low, high = self.material.row("gaze/classes/group_border_bound", row)
        known = math.isfinite(low) and math.isfinite(high)
        share = float(self.border[row])
        centre = self.material.row("gaze/classes/group_centre", row)
        axes = self.material.subject.get("axes", [])
        return Border(
            name=self.material.class_name(int(self.sides[row, 0])),
            n=int(self.n[row]),
            blank=int(self.material.row("gaze/classes/blank", row)),
            share=share,
            interval=f"{figures.number(float(low))} to {figures.number(float(high))}" if known else "",
            bar=round(100 * share, 1),
            bar_low=round(100 * float(low), 1) if known else 0.0,
            bar_width=round(100 * float(high - low), 1) if known else 0.0,
            centre=", ".join(f"{axis} {place:.2f}" for axis, place in zip(axes, centre, strict=False)),
            spread=float(self.material.row("gaze/classes/group_spread", row)),
        )


def _cross(centre: np.ndarray | None, width: int, height: int) -> str:
    if centre is None or not np.isfinite(centre).all():
        return ""
    y, x = (centre[0] * height, centre[1] * width) if len(centre) == 2 else (height / 2, centre[0] * width)
    at = figures.coordinate
    return f"M{at(x - 3)} {at(y)}h6M{at(x)} {at(y - 3)}v6"


def _affordable(album: Album, panels: Iterable[Panel]) -> tuple[Panel, ...]:
    found: list[Panel] = []
    for panel in panels:
        if not album.spend("gaze", panel.size):
            break
        found.append(panel)
    return tuple(found)


def _ways(material: Material, album: Album, means: _Means) -> tuple[Ways, ...]:
    """Groups of the classes that have several."""
    found: list[Ways] = []
    for label in means.several[:_CLASSES]:
        groups = [_group(material, album, means, label, at) for at in _groups(material, label)]
        if any(group is None or not group.gallery.items for group in groups):
            break
        found.append(Ways(material.class_name(label), tuple(group for group in groups if group is not None)))
    return tuple(found)


def _groups(material: Material, label: int) -> Sequence[int]:
    return [int(at) for at in np.flatnonzero(material.row("gaze/clusters/size", label) > 0)]


def _group(material: Material, album: Album, means: _Means, label: int, at: int) -> Group | None:
    cluster = material.array("gaze/clusters/cluster").astype(int)
    members = np.flatnonzero((cluster == at) & (material.labels == label))
    centre = material.row("gaze/clusters/heatmap", label)[at].astype(float)
    panel = means.drawn(
        centre, f"{material.class_name(label)}, group {at + 1}", f"{figures.number(len(members))} images"
    )
    if not album.spend("gaze", panel.size):
        return None
    far = [float(np.abs(material.row("gaze/classes/pooled", int(one)) - centre).sum()) for one in members[:200]]
    nearest = members[:200][np.argsort(far, kind="stable")]
    return Group(panel, album.gallery("gaze", nearest[:_MEMBERS], limit=_MEMBERS))
