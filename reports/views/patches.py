"""What excites single channels most, beside what the unit that saw it projects back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import figures, patchwork
from ..album import Album
from ..material import Material

TITLE = "Patches"
QUESTION = "What is each channel looking for?"
_NAMES = {"deconvnet": "Deconvnet", "guided": "Guided", "plain": "Gradient"}
#: What a channel costs in markup, and each of its images.
_MARKUP, _LINE = 1100, 260
# Channels of one layer on the first page.
_PER_LAYER = 2


@dataclass(frozen=True)
class Sighting:
    """One image that excites a channel.

    Parameters
    ----------
    image
        Its stable name.
    label, prediction
        Class names; the prediction is empty where it agrees or there is none.
    value
        Activation of the channel there.
    where
        The part of the image that is shown.
    """

    image: str
    label: str
    prediction: str
    value: float
    where: str


@dataclass(frozen=True)
class ChannelPatches:
    """One channel.

    Parameters
    ----------
    layer, channel
        Which.
    flagged
        Whether the filter table has something to say of it.
    panels
        Its patches, then a projection of each for every rule.
    prefers
        The class that its images prefer, in words; empty where none is labelled.
    selective
        Whether chance would hardly do that.
    cosine
        First convolution only: how alike filter and best patch are; None elsewhere.
    field
        What is known of the part of the image that it sees.
    sightings
        The images, best first.
    """

    layer: str
    channel: int
    flagged: bool
    panels: tuple[patchwork.Panel, ...]
    prefers: str
    selective: bool
    cosine: str
    field: str
    sightings: tuple[Sighting, ...]

    @property
    def size(self) -> int:
        """Bytes it adds to the page."""
        return _MARKUP + _LINE * len(self.sightings) + sum(panel.size for panel in self.panels)


@dataclass(frozen=True)
class LayerPatches:
    """One layer.

    Parameters
    ----------
    layer
        Its name.
    gist
        How many of its channels are stored.
    channels
        Those that are shown.
    hidden, never, selective, total
        Channels with stored patches that are not shown here, that were never excited, that prefer a class, and all.
    """

    layer: str
    gist: str
    channels: tuple[ChannelPatches, ...]
    hidden: int
    never: int
    selective: int
    total: int


@dataclass(frozen=True)
class PatchesView:
    """Every layer that has something to show, in the order of the forward pass, and how many have not.

    Parameters
    ----------
    layers, rest, budget_full
        What is shown, how many layers are not, and whether for want of bytes.
    signal
        Whether the data are signals.
    stem, angles
        Name of the first convolution; channel and cosine of each of its filters, least alike first.
    judged
        How many projections were held against their receptive fields, and why the others were not.
    """

    layers: tuple[LayerPatches, ...]
    rest: int
    budget_full: bool
    signal: bool
    stem: str
    angles: tuple[tuple[int, str], ...]
    judged: str


def view(material: Material, album: Album) -> PatchesView:
    """Gather what the section shows: the first channel of each layer, then the second of each, as the budget allows."""
    drawer = _Drawer(material)
    found: dict[str, list[ChannelPatches]] = {str(row["name"]): [] for row in drawer.rows}
    full = False
    for slot in range(_PER_LAYER):
        for row in drawer.rows:
            if full or slot >= len(row["shown"]):
                continue
            drawn = drawer.channel(row, slot)
            full = not album.spend("patches", drawn.size)
            found[row["name"]] += [] if full else [drawn]
    layers = tuple(_layer(row, tuple(found[row["name"]])) for row in drawer.rows if found[row["name"]])
    stem, angles = drawer.angles(material.limits.rows)
    return PatchesView(layers, len(drawer.rows) - len(layers), full, drawer.signal, stem, angles, drawer.judged)


def layer_view(material: Material, album: Album, name: str) -> LayerPatches | None:
    """All stored channels of one layer, as the budget allows; None where nothing of it is stored."""
    drawer = _Drawer(material)
    row = next((row for row in drawer.rows if row["name"] == name), None)
    if row is None:
        return None
    found: list[ChannelPatches] = []
    for slot in range(len(row["shown"])):
        drawn = drawer.channel(row, slot)
        if not album.spend("patches", drawn.size):
            break
        found.append(drawn)
    return _layer(row, tuple(found))


def _layer(row: dict[str, Any], channels: tuple[ChannelPatches, ...]) -> LayerPatches:
    stored = len(row["shown"])
    return LayerPatches(
        layer=row["name"],
        gist=f"{figures.number(stored)} of {figures.number(row['channels'])} channels",
        channels=channels,
        hidden=stored - len(channels),
        never=row["never_excited"],
        selective=row["selective"],
        total=row["channels"],
    )


class _Drawer:
    """Reads and draws one channel at a time."""

    def __init__(self, material: Material) -> None:
        self.material = material
        notes = material.notes("patches")
        self.rows: list[dict[str, Any]] = list(notes.get("layers", ()))
        self.rules: list[str] = list(notes.get("rules", ()))
        self.judged = str(notes.get("outside_field", ""))
        self.space: list[int] = list(material.subject["input_shape"][1:])
        self.axes: list[str] = list(material.subject["axes"])
        self.signal = len(self.axes) == 1

    def channel(self, row: dict[str, Any], slot: int) -> ChannelPatches:
        """Draw one channel of a layer."""
        layer, channel = str(row["name"]), int(row["shown"][slot])
        read = self._reader(layer, slot)
        field, span, size = (read(key) for key in ("field", "span", "size"))
        ranks = range(len(field))
        shown = [rank for rank in ranks if field[rank] >= 0]
        # An image at a time: what lies in the image, where the used corner of each array ends.
        within = [
            patchwork.inside(span[rank], self.space, size[rank]) if rank in shown else None
            for rank in range(len(field))
        ]
        corner = [tuple(slice(int(length)) for length in size[rank]) for rank in ranks]
        draw = patchwork.signals if self.signal else patchwork.pictures
        name = f"channel {channel} of {layer}"

        def panel(title: str, alt: str, stack: np.ndarray, drawn: Sequence[int] = shown) -> patchwork.Panel:
            crops = [stack[rank][:, *corner[rank]] if rank in drawn else None for rank in ranks]
            return draw(title, alt, crops, within)

        panels = [panel("Patches", f"What excites {name} most", read("signal" if self.signal else "crop"))]
        for at, rule in enumerate(self.rules):
            title, stack, peak = _NAMES.get(rule, rule), read("projection")[:, at], read("peak")[:, at]
            stack = stack if self.signal else np.stack([patchwork.brightened(one) for one in stack])
            drawn = [rank for rank in shown if np.isfinite(peak[rank])]
            panels.append(panel(title, f"{title} projection of the same units of {name}", stack, drawn))
        prefers, selective = self._preference(layer, channel)
        return ChannelPatches(
            layer=layer,
            channel=channel,
            flagged=channel in row["flagged"],
            panels=tuple(panels),
            prefers=prefers,
            selective=selective,
            cosine=self._cosine(layer, channel),
            field=self._field(row["fields"][slot], span[shown]),
            sightings=self._sightings(layer, channel, shown, span),
        )

    def _reader(self, layer: str, slot: int) -> Any:
        return lambda key: self.material.row(f"patches/{layer}/{key}", slot)

    def _preference(self, layer: str, channel: int) -> tuple[str, bool]:
        favourite, share, n, chance = (
            self.material.row(f"patches/{layer}/{key}", channel)
            for key in ("class", "class_share", "class_n", "chance")
        )
        if favourite < 0:
            return "", False
        name = self.material.class_name(int(favourite))
        odds = "under 0.01 %" if chance < 1e-4 else f"{100 * chance:.2g} %" if chance < 0.995 else "100 %"
        return f"{name}: {round(float(share) * int(n))} of {int(n)}; by chance {odds}", bool(chance <= 0.01)

    def angles(self, most: int) -> tuple[str, tuple[tuple[int, str], ...]]:
        """The first convolution, and how alike each filter and the patch that excites it most are."""
        for layer in self.material.layers_of("patches", "cosine"):
            best = self.material.array(f"patches/{layer}/cosine")[:, 0]
            order = [int(channel) for channel in np.argsort(best, kind="stable") if np.isfinite(best[channel])]
            return layer, tuple((channel, _angle(float(best[channel]))) for channel in order[:most])
        return "", ()

    def _cosine(self, layer: str, channel: int) -> str:
        path = f"patches/{layer}/cosine"
        if path not in self.material.store.arrays("patches"):
            return ""
        value = float(self.material.row(path, channel)[0])
        return "" if math.isnan(value) else _angle(value)

    def _field(self, status: str, span: np.ndarray) -> str:
        if status == "unknown":
            return "what it sees is not known: whole images, not cropped"
        lengths = (span[..., 1] - span[..., 0]).max(axis=0, initial=0)
        text = " × ".join(figures.number(int(length)) for length in lengths)
        unit = "samples" if self.signal else "pixels"
        if status == "whole":
            return f"it sees the whole image; shown is what reaches it in place, {text} {unit}"
        return f"it sees {text} {unit}"

    def _sightings(self, layer: str, channel: int, shown: Sequence[int], span: np.ndarray) -> tuple[Sighting, ...]:
        value = self.material.row(f"activations/{layer}/top_value", channel)
        image = self.material.row(f"activations/{layer}/top_image", channel).astype(int)
        return tuple(self._sighting(int(image[rank]), float(value[rank]), span[rank]) for rank in shown)

    def _sighting(self, image: int, value: float, span: np.ndarray) -> Sighting:
        material = self.material
        label = int(material.labels[image])
        prediction = label if material.predicted is None else int(material.predicted[image])
        where = ", ".join(
            f"{axis} {int(start)} to {int(stop) - 1}" for axis, (start, stop) in zip(self.axes, span, strict=True)
        )
        other = material.class_name(prediction) if prediction >= 0 and prediction != label else ""
        return Sighting(material.image_ids[image], material.class_name(label), other, value, where)


def _angle(cosine: float) -> str:
    return f"{cosine:.2f}, {math.degrees(math.acos(min(1.0, max(-1.0, cosine)))):.0f}°"
