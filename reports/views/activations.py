"""How often the channels of each layer fire, and on what the strongest do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import figures
from ..album import Album, Gallery
from ..material import Material

TITLE = "Activations"
QUESTION = "Do all channels take part, and what excites the strongest?"
_BINS = 16
_CHANNELS, _IMAGES = 5, 4


@dataclass(frozen=True)
class ActivationLayer:
    """One layer over all images.

    Parameters
    ----------
    layer, channels
        Its name and how many channels it has.
    silent
        Channels that fired for no image.
    rate_low, rate_middle, rate_high
        Smallest, median and largest share of images for which a channel fires.
    sparsity, magnitude
        Share of values that are zero or below, and mean absolute value, means over the channels; NaN where it was not
        measured.
    least, largest
        Smallest and largest activation; NaN where a channel holds values that are not finite.
    spark
        Path of the histogram of rates over channels, from 0 to 1.
    spark_alt
        The same in words.
    """

    layer: str
    channels: int
    silent: int
    rate_low: float
    rate_middle: float
    rate_high: float
    sparsity: float
    magnitude: float
    least: float
    largest: float
    spark: str
    spark_alt: str


@dataclass(frozen=True)
class TopChannel:
    """A channel and the images that excite it most."""

    layer: str
    channel: int
    gallery: Gallery


@dataclass(frozen=True)
class Depth:
    """A quantity over all layers."""

    title: str
    plot: figures.Plot


@dataclass(frozen=True)
class ActivationsView:
    """Every layer in the order of the forward pass, how they change with depth, the strongest channels of the last."""

    layers: tuple[ActivationLayer, ...]
    hidden: int
    depth: tuple[Depth, ...]
    tops: tuple[TopChannel, ...]


def view(material: Material, album: Album) -> ActivationsView:
    """Gather what the section shows."""
    names = material.layers_of("activations", "rate")
    shown = names[: material.limits.rows]
    return ActivationsView(
        layers=tuple(_layer(material, name) for name in shown),
        hidden=len(names) - len(shown),
        depth=_depth(material, names),
        tops=_tops(material, album, names),
    )


def _layer(material: Material, name: str) -> ActivationLayer:
    rate = material.array(f"activations/{name}/rate")
    fired = material.array(f"activations/{name}/fired")
    known = rate[np.isfinite(rate)]
    counts = np.histogram(known, _BINS, (0, 1))[0]
    low, middle, high = np.quantile(known, (0, 0.5, 1)) if known.size else (np.nan, np.nan, np.nan)
    often = int(np.sum(known > 0.5))
    return ActivationLayer(
        layer=name,
        channels=len(rate),
        silent=int(np.sum(fired == 0)),
        rate_low=float(low),
        rate_middle=float(middle),
        rate_high=float(high),
        sparsity=_over_channels(material, name, "sparsity"),
        magnitude=_over_channels(material, name, "mean_abs"),
        least=_least(material, name),
        largest=float(np.max(material.array(f"activations/{name}/max"))),
        spark=figures.spark(counts),
        spark_alt=f"{often} of {len(rate)} channels fire for more than half of the images",
    )


def _least(material: Material, name: str) -> float:
    if name not in material.layers_of("activations", "min"):
        return np.nan
    return float(np.min(material.array(f"activations/{name}/min")))


def _over_channels(material: Material, name: str, statistic: str) -> float:
    """Mean over the channels of a layer; NaN where the statistic was not measured."""
    if name not in material.layers_of("activations", statistic):
        return np.nan
    return float(np.mean(material.array(f"activations/{name}/{statistic}")))


def _depth(material: Material, names: tuple[str, ...]) -> tuple[Depth, ...]:
    """Sparsity and magnitude of every layer, before and after the activation."""
    kinds = {layer["name"]: layer.get("kind", "") for layer in material.subject.get("layers", ())}
    after = np.array([kinds.get(name) == "relu" for name in names], bool)
    drawn = []
    for statistic, title, unit in (
        ("sparsity", "Share of values that are zero or below", "share, mean over channels"),
        ("mean_abs", "Mean absolute value", "activation, mean over channels"),
    ):
        values = np.array([_over_channels(material, name, statistic) for name in names], float)
        if np.isfinite(values).sum() < 2:
            continue
        series = {
            "before the activation": np.where(after, np.nan, values),
            "after a ReLU": np.where(after, values, np.nan),
        }
        there = {name: row for name, row in series.items() if np.isfinite(row).any()}
        roles = [{"before the activation": "right", "after a ReLU": "wrong dashed"}[name] for name in there]
        alt = f"{title} by layer: " + ", ".join(
            f"{name} from {figures.number(float(np.nanmin(row)))} to {figures.number(float(np.nanmax(row)))}"
            for name, row in there.items()
        )
        plot = figures.lines(there, "layer in the order of the table below", unit, alt, roles, joined=True)
        drawn.append(Depth(title, plot))
    return tuple(drawn)


def _tops(material: Material, album: Album, names: tuple[str, ...]) -> tuple[TopChannel, ...]:
    if not names:
        return ()
    layer = names[-1]
    values = material.array(f"activations/{layer}/top_value")
    images = material.array(f"activations/{layer}/top_image")
    strength = np.where(np.isfinite(values[:, 0]), values[:, 0], -np.inf)
    tops = []
    for channel in np.lexsort((np.arange(len(strength)), -strength))[:_CHANNELS]:
        ranks = [rank for rank in range(min(_IMAGES, images.shape[1])) if images[channel, rank] >= 0]
        notes = {
            int(images[channel, rank]): f"activation {figures.number(float(values[channel, rank]))}" for rank in ranks
        }
        gallery = album.gallery("activations", [images[channel, rank] for rank in ranks], heat=0, notes=notes)
        if gallery.items:
            tops.append(TopChannel(layer, int(channel), gallery))
    return tuple(tops)
