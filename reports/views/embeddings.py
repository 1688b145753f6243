"""Where the images lie in the space of the features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .. import figures, rasters
from ..album import Album
from ..material import Material
from ..tour import Arrows, Pair, Spots, Tour, biplot, draw_tour, nearest_classes

TITLE = "Embeddings"
QUESTION = "Do the classes form groups in the space of the features, and where are the errors?"
WIDTH, HEIGHT = 200, 160
_PANELS = 12
#: A class of so few images is drawn point by point over the pixels of all others, or it would drown in them.
_FEW = 300
_COMPONENTS = 12
_GREY, _BLUE, _RED = (148, 156, 166), (52, 120, 190), (208, 86, 20)


@dataclass(frozen=True)
class Cloud:
    """Points drawn as a path, or as pixels where there are too many."""

    role: str
    d: str = ""
    href: str = ""


@dataclass(frozen=True)
class Panel:
    """One class before all the others."""

    name: str
    n: int
    n_wrong: int
    clouds: tuple[Cloud, ...]
    alt: str


@dataclass(frozen=True)
class Component:
    """Share of the variance that one component explains, and the total up to it; both 0 to 1."""

    name: str
    share: float
    total: float
    bar: float


@dataclass(frozen=True)
class EmbeddingMap:
    """One embedding: its map by class and its components."""

    leaf: str
    everything: Cloud
    panels: tuple[Panel, ...]
    hidden: int
    n: int
    raster: bool
    components: tuple[Component, ...]
    what: str
    biplot: Arrows | None
    pairs: tuple[Pair, ...]
    spots: Spots | None = None


@dataclass(frozen=True)
class EmbeddingsView:
    """Every embedding that was made."""

    width: int
    height: int
    maps: tuple[EmbeddingMap, ...]
    over_budget: tuple[str, ...]
    tour: Tour | None


def view(material: Material, album: Album) -> EmbeddingsView:
    """Gather what the section shows."""
    maps, over, places, layers = [], [], {}, set()
    for leaf in material.leaves("embeddings"):
        # A method that left all images out says so in its notes, which the section shows.
        told = material.has(leaf) and not material.notes(leaf).get("left_out")
        if told and f"{leaf}/coordinate" in material.store.arrays(leaf):
            drawn, place = _map(material, leaf)
            layer = material.notes(leaf).get("layer")
            if layer in layers:  # classes lie in feature space, the same for every map of it
                drawn = replace(drawn, pairs=())
            if album.spend("embeddings", _size(drawn)):
                maps.append(drawn)
                layers.add(layer)
                places[leaf] = place
            else:
                over.append(leaf)
    tour, spots = draw_tour(material, album, places, (WIDTH, HEIGHT))
    shown = tuple(replace(drawn, spots=spots.get(drawn.leaf)) for drawn in maps)
    return EmbeddingsView(WIDTH, HEIGHT, shown, tuple(over), tour)


def _size(drawn: EmbeddingMap) -> int:
    clouds = [drawn.everything, *(cloud for panel in drawn.panels for cloud in panel.clouds)]
    more = 1_500 + 200 * len(drawn.pairs)
    return sum(len(cloud.d) + len(cloud.href) + 200 for cloud in clouds) + more


def _map(material: Material, leaf: str) -> tuple[EmbeddingMap, np.ndarray]:
    coordinates = material.array(f"{leaf}/coordinate").astype(float)
    if coordinates.shape[1] == 1:
        coordinates = np.concatenate([coordinates, np.zeros_like(coordinates)], axis=1)
    known = np.flatnonzero(np.isfinite(coordinates[:, :2]).all(axis=1))
    points, origin = _fit(coordinates[known, :2])
    place = np.full((len(coordinates), 2), np.nan)
    place[known] = points
    raster = len(known) > figures.VECTOR_POINTS
    order = _classes(material, known)
    drawn = EmbeddingMap(
        leaf=leaf,
        everything=_cloud("other", points, raster, _GREY),
        panels=tuple(_panel(material, known, points, label, raster) for label in order[:_PANELS]),
        hidden=max(0, len(order) - _PANELS),
        n=len(known),
        raster=raster,
        components=_components(material, leaf),
        what="first two components" if f"{leaf}/component" in material.store.arrays(leaf) else "map",
        biplot=biplot(material, leaf, origin, (WIDTH, HEIGHT)),
        pairs=nearest_classes(material, leaf),
    )
    return drawn, place


def _fit(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale both axes by the same factor into the panel, y upwards; and where the origin comes to lie."""
    if not len(points):
        return points, np.array([WIDTH / 2, HEIGHT / 2])
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-12)
    factor = min((WIDTH - 12) / span[0], (HEIGHT - 12) / span[1])
    centred = (np.concatenate([points, np.zeros((1, 2))]) - (low + high) / 2) * factor
    fitted = np.stack([WIDTH / 2 + centred[:, 0], HEIGHT / 2 - centred[:, 1]], axis=1)
    return fitted[:-1], fitted[-1]


def _classes(material: Material, known: np.ndarray) -> list[int]:
    """Classes that occur: by position, or by number of errors where there are more than panels."""
    labels = sorted({int(label) for label in material.labels[known] if label >= 0})
    if len(labels) <= _PANELS:
        return labels
    errors = np.bincount(material.labels[material.wrong], minlength=max(labels) + 1)
    return sorted(labels, key=lambda label: (-errors[label], label))


def _cloud(role: str, points: np.ndarray, raster: bool, colour: tuple[int, int, int]) -> Cloud:
    if not raster:
        return Cloud(role, d=figures.crosses(points) if role == "wrong" else figures.dots(points))
    pixels = rasters.encode_dots(points * 2, (WIDTH * 2, HEIGHT * 2), colour, radius=1)
    return Cloud(role, href=rasters.data_uri("image/png", pixels))


def _panel(material: Material, known: np.ndarray, points: np.ndarray, label: int, raster: bool) -> Panel:
    own = material.labels[known] == label
    wrong = own & np.isin(known, material.wrong)
    pixels = raster and int(own.sum()) > _FEW
    name = material.class_name(label)
    return Panel(
        name=name,
        n=int(own.sum()),
        n_wrong=int(wrong.sum()),
        clouds=(
            _cloud("right", points[own & ~wrong], pixels, _BLUE),
            _cloud("wrong", points[wrong], pixels, _RED),
        ),
        alt=f"Map of {int(own.sum())} images of class {name}, {int(wrong.sum())} of them misclassified",
    )


def _components(material: Material, leaf: str) -> tuple[Component, ...]:
    stored = material.store.arrays(leaf)
    path = next((f"{leaf}/{name}" for name in ("scree", "explained") if f"{leaf}/{name}" in stored), "")
    if not path:
        return ()
    shares = material.array(path).astype(float)
    totals = np.cumsum(shares)
    peak = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    rows = [
        Component(str(place + 1), float(share), float(totals[place]), round(100 * float(share) / (peak or 1.0), 1))
        for place, share in enumerate(shares)
        if np.isfinite(share)
    ]
    return tuple(rows[:_COMPONENTS])
