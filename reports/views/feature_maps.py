"""What the layers make of a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import figures, rasters
from ..album import Album, Gallery
from ..material import Material

TITLE = "Feature maps"
QUESTION = "What does each layer make of an image, and which channels stay dark?"
#: Images beside each other, and channels in a row.
_IMAGES, _COLUMNS = 2, 8
#: What one grid costs beside its picture.
_MARKUP_BYTES = 700
#: Tile of a signal, in user units.
_WIDTH, _HEIGHT = 60.0, 26.0


@dataclass(frozen=True)
class Trace:
    """A signal of one channel, drawn from a corner of its tile."""

    x: float
    y: float
    d: str


@dataclass(frozen=True)
class Grid:
    """Some channels of one layer for one image.

    Parameters
    ----------
    title, right
        Label and prediction in words; whether they agree, None where one is missing.
    width, height
        Size in user units.
    href
        Picture of all maps side by side; empty for signals.
    traces
        The maps of signals.
    edges
        Path between the tiles.
    silent, dead
        Paths around tiles of channels that do not fire in this image, and across those that fire in none of the audit.
    said
        What is true of the whole layer in this image.
    alt
        The grid in words.
    """

    title: str
    right: bool | None
    width: float
    height: float
    href: str
    traces: tuple[Trace, ...]
    edges: str
    silent: str
    dead: str
    said: str
    alt: str

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        drawn = sum(len(trace.d) + 60 for trace in self.traces)
        return len(self.href) + drawn + len(self.edges) + len(self.silent) + len(self.dead) + _MARKUP_BYTES


@dataclass(frozen=True)
class LayerMaps:
    """One layer: its kind, its output, which channels are shown, and a grid for each image that the budget allows."""

    layer: str
    kind: str
    output: str
    channels: str
    grids: tuple[Grid, ...]

    @property
    def gist(self) -> str:
        """What is in it, in few words."""
        return f"{len(self.grids)} images" if len(self.grids) != 1 else "1 image"

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return sum(grid.size for grid in self.grids)


@dataclass(frozen=True)
class FeatureMapsView:
    """The images, layers spread over the depth of the network, and what is left out.

    Parameters
    ----------
    chosen
        How many images have maps.
    images
        Those that are shown.
    layers
        In the order of the forward pass.
    layers_hidden, images_hidden
        How many more are stored.
    strongest
        Whether each image shows its own strongest channels.
    audited
        Whether it is known which channels fire in no image of the audit.
    """

    chosen: int
    images: Gallery
    layers: tuple[LayerMaps, ...]
    layers_hidden: int
    images_hidden: int
    strongest: bool
    audited: bool


def view(material: Material, album: Album) -> FeatureMapsView:
    """Gather what the section shows."""
    names = material.layers_of("feature_maps", "map")
    positions = pictured(material)
    shown = positions[:_IMAGES]
    images = album.gallery("feature_maps", shown, heat=0)
    layers = _fitting(material, album, names) if shown else ()
    return FeatureMapsView(
        chosen=len(positions),
        images=images,
        layers=layers,
        layers_hidden=len(names) - len(layers),
        images_hidden=len(positions) - len(shown),
        strongest=material.notes("feature_maps").get("order") == "strongest",
        audited=material.has("activations"),
    )


def pictured(material: Material) -> tuple[int, ...]:
    """Images whose maps are stored, in the order in which they were chosen."""
    return tuple(int(position) for position in material.array("feature_maps/image") if position >= 0)


def _fitting(material: Material, album: Album, names: Sequence[str]) -> tuple[LayerMaps, ...]:
    """As many layers as the budget allows, evenly spaced, the first and the last among them."""
    drawn: dict[str, LayerMaps] = {}
    for n in range(min(len(names), material.limits.pictures), 0, -1):
        places = np.rint(np.linspace(0, len(names) - 1, n)).astype(int)
        chosen: list[str] = [names[int(place)] for place in places]
        for name in chosen:
            if name not in drawn:
                drawn[name] = layer_maps(material, name, _IMAGES)
        if album.spend("feature_maps", sum(drawn[name].size for name in chosen)):
            return tuple(drawn[name] for name in chosen)
    return ()


def layer_view(material: Material, album: Album, name: str) -> LayerMaps | None:
    """Draw one layer for as many images as the budget allows; None where nothing of it is stored."""
    if name not in material.layers_of("feature_maps", "map") or not pictured(material):
        return None
    whole = layer_maps(material, name, len(pictured(material)))
    for n in range(len(whole.grids), 0, -1):
        some = replace(whole, grids=whole.grids[:n])
        if album.spend("feature_maps", some.size):
            return some
    return replace(whole, grids=())


def layer_maps(material: Material, name: str, images: int) -> LayerMaps:
    """Draw one layer.

    Parameters
    ----------
    material
        Store and config.
    name
        A layer whose maps are stored.
    images
        Most images.
    """
    stored = {
        key: material.rows(f"feature_maps/{name}/{key}", 0, images) for key in ("map", "channel", "range", "fires")
    }
    column = material.layers_of("feature_maps", "map").index(name)
    extra = {key: material.rows(f"feature_maps/{key}", 0, images)[:, column] for key in ("silent", "sparsity")}
    layer = next((row for row in material.subject.get("layers", ()) if row["name"] == name), {})
    output = tuple(layer.get("shape", ()))
    dead = _dead(material, name)
    grids = [
        _grid(material, position, name, {key: rows[at] for key, rows in (stored | extra).items()}, output, dead)
        for at, position in enumerate(pictured(material)[:images])
    ]
    channels = stored["channel"][0]
    whole = output[0] if output else len(channels)
    evenly = material.notes("feature_maps").get("order") != "strongest"
    return LayerMaps(
        layer=name,
        kind=str(layer.get("kind", "")),
        output=" x ".join(map(str, output)),
        channels=_which(channels, whole) if evenly else f"the {len(channels)} strongest of {whole} channels",
        grids=tuple(grids),
    )


def _dead(material: Material, name: str) -> np.ndarray | None:
    """Channels that fire in no image of the audit; None where that is not known."""
    if not material.has("activations") or name not in material.layers_of("activations", "fired"):
        return None
    return np.flatnonzero(material.array(f"activations/{name}/fired") == 0)


def _which(channels: np.ndarray, whole: int) -> str:
    if len(channels) == whole:
        return f"all {whole} channels"
    return f"{len(channels)} of {whole} channels, evenly spaced: " + ", ".join(map(str, channels))


def _grid(
    material: Material,
    position: int,
    name: str,
    row: Mapping[str, np.ndarray],
    output: Sequence[int],
    dead: np.ndarray | None,
) -> Grid:
    maps, shown = row["map"], len(row["map"])
    tile = (_HEIGHT, _WIDTH) if maps.ndim == 2 else (float(maps.shape[1]), float(maps.shape[2]))
    columns = min(_COLUMNS if maps.ndim == 3 else _COLUMNS // 2, shown)
    silent = [k for k in range(shown) if row["fires"][k] == 0]
    buried = [k for k in silent if dead is not None and row["channel"][k] in dead]
    broken = int(np.isnan(row["range"][:, 0]).sum())
    whole = output[0] if output else shown
    share = 100 * float(row["sparsity"])
    said = f"{int(row['silent'])} of {whole} channels do not fire; {share:.0f} % of all values are zero or below"
    if broken:
        said += f"; {broken} of the maps hold values that are not finite"
    title, right = _title(material, position)
    framed = f", {len(silent)} of them framed" if silent else ""
    return Grid(
        title=title,
        right=right,
        width=columns * tile[1],
        height=-(-shown // columns) * tile[0],
        href=rasters.encode_grey(_tiled(maps, columns)) if maps.ndim == 3 else "",
        traces=tuple(
            Trace(
                k % columns * tile[1], k // columns * tile[0], figures.traces(maps[k][None] / 255, tile[1], tile[0])[0]
            )
            for k in range(shown)
            if maps.ndim == 2
        ),
        edges=_edges(shown, columns, tile),
        silent="".join(_frame(k, columns, tile) for k in silent),
        dead="".join(_cross(k, columns, tile) for k in buried),
        said=said,
        alt=f"{shown} channels of {name} for image {material.image_ids[position]}{framed}",
    )


def _title(material: Material, position: int) -> tuple[str, bool | None]:
    label = int(material.labels[position])
    predicted = -1 if material.predicted is None else int(material.predicted[position])
    if label < 0 or predicted < 0:
        return material.class_name(max(label, predicted)), None
    name = material.class_name(label)
    return (name, True) if label == predicted else (f"{name}, predicted as {material.class_name(predicted)}", False)


def _tiled(maps: np.ndarray, columns: int) -> np.ndarray:
    """Maps ``(shown, y, x)`` side by side, row after row; what no map fills is white."""
    shown, y, x = maps.shape
    rows = -(-shown // columns)
    tiles = np.full((rows * columns, y, x), 255, np.uint8)
    tiles[:shown] = maps
    return tiles.reshape(rows, columns, y, x).swapaxes(1, 2).reshape(rows * y, columns * x)


def _edges(shown: int, columns: int, tile: tuple[float, float]) -> str:
    rows = -(-shown // columns)
    across = [
        f"M0 {figures.coordinate(row * tile[0])}h{figures.coordinate(columns * tile[1])}" for row in range(1, rows)
    ]
    down = [
        f"M{figures.coordinate(column * tile[1])} 0v{figures.coordinate(rows * tile[0])}"
        for column in range(1, columns)
    ]
    return "".join(across + down)


def _frame(k: int, columns: int, tile: tuple[float, float]) -> str:
    inset = 0.07 * min(tile)
    x, y = k % columns * tile[1] + inset, k // columns * tile[0] + inset
    wide, high = (f"{length - 2 * inset:.4g}" for length in (tile[1], tile[0]))
    return f"M{x:.4g} {y:.4g}h{wide}v{high}h-{wide}z"


def _cross(k: int, columns: int, tile: tuple[float, float]) -> str:
    inset = 0.07 * min(tile)
    x, y = k % columns * tile[1] + inset, k // columns * tile[0] + inset
    wide, high = (f"{length - 2 * inset:.4g}" for length in (tile[1], tile[0]))
    return f"M{x:.4g} {y:.4g}l{wide} {high}m-{wide} 0l{wide} -{high}"
