"""What every layer makes of a few chosen images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Ask, Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, LayerSpec, SizedArray, Summary
from .chosen import choose
from .maps import Maps, Order, maps, small_space

if TYPE_CHECKING:
    import torch

    from ..network.batch import Batch

_KINDS = ("conv", "norm", "relu", "pool")
IMAGE = ArraySpec("image", ("picture",), "int64", "image", "Chosen images, by position; -1: row not used.")
MAP = ArraySpec(
    "{layer}/map",
    ("picture", "shown", "*space"),
    "uint8",
    "1/255",
    "Values of a channel over its positions, means of neighbours, from its smallest (0) to its largest (255).",
)
CHANNEL = ArraySpec("{layer}/channel", ("picture", "shown"), "int32", "channel", "Which channels; -1: row not used.")
RANGE = ArraySpec(
    "{layer}/range",
    ("picture", "shown", "bound"),
    "float32",
    "activation",
    "Values that 0 and 255 of the map stand for; NaN where one is not finite, or the row is not used.",
)
FIRES = ArraySpec(
    "{layer}/fires",
    ("picture", "shown"),
    "int8",
    "1",
    "1 where the channel is above zero somewhere in the image, else 0; -1: row not used.",
)
SILENT = ArraySpec(
    "silent", ("picture", "layer"), "int32", "channel", "Channels of the whole layer that are nowhere above zero."
)
SPARSITY = ArraySpec(
    "sparsity", ("picture", "layer"), "float64", "1", "Share of all values of the layer that are zero or below."
)
_PER_LAYER = (MAP, CHANNEL, RANGE, FIRES)


@dataclass(frozen=True)
class FeatureMaps(SoleLeaf):
    """Small pictures of some channels of every layer, for a few images.

    Parameters
    ----------
    images
        Image selectors; ``"right_and_wrong:N"`` takes a right and a wrong image of the N classes with the most wrong
        ones.
    max_images
        Most images; at least 1.
    layers
        Layer selectors; of what they choose, those with more than one position that are a convolution, a norm, a ReLU
        or a pool, or are named exactly.
    channels
        Channels shown of each layer; at least 1.
    order
        Which: ``"evenly"`` spaced over the layer, so the same in every image, or the ``"strongest"`` of each image.
    side, steps
        Longest side of a stored map, and its length for signals, in positions; 1 to 256 and 1 to 4096.
    """

    images: tuple[str, ...] = ("right_and_wrong:3",)
    max_images: int = 6
    layers: tuple[str, ...] = ("*",)
    channels: int = 16
    order: Order = "evenly"
    side: int = 32
    steps: int = 128

    name: ClassVar[str] = "feature_maps"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (IMAGE, *_PER_LAYER, SILENT, SPARSITY)

    def __post_init__(self) -> None:
        for key in ("images", "layers"):
            if not getattr(self, key):
                raise ConfigError(f"feature_maps.{key}: expected at least one selector, got none")
        for key, most in (("max_images", 64), ("channels", 256), ("side", 256), ("steps", 4096)):
            if not 1 <= getattr(self, key) <= most:
                raise ConfigError(f"feature_maps.{key}: expected 1 to {most}, got {getattr(self, key)}")
        if self.order not in ("evenly", "strongest"):
            raise ConfigError(f"feature_maps.order: expected evenly or strongest, got {self.order!r}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What images are chosen by."""
        return ("predictions",)

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """As many rows as images are allowed; how many are used is known only when the predictions are."""
        n, chosen = self.max_images, self._chosen(subject)
        sized = [IMAGE.sized((n,)), SILENT.sized((n, len(chosen))), SPARSITY.sized((n, len(chosen)))]
        for layer in chosen:
            shown, space = self._size(layer)
            sized += [
                MAP.sized((n, shown, *space), subject.axes, layer=layer.name),
                CHANNEL.sized((n, shown), layer=layer.name),
                RANGE.sized((n, shown, 2), layer=layer.name),
                FIRES.sized((n, shown), layer=layer.name),
            ]
        return tuple(sized)

    def tasks(self, subject: Subject, stored: Stored) -> Sequence[Task]:
        """All chosen images at once."""
        images = self._images(subject, stored)
        return [Task(self.name, images)] if images else []

    def asks(self, subject: Subject) -> Ask:
        """A look at every chosen layer."""
        return Ask(observe=tuple(layer.name for layer in self._chosen(subject)))

    def observe(self, layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> Maps:
        """Picture one layer while the forward runs."""
        del valid
        return maps(activation, *self._size(layer), self.order)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Keep the pictures of the images that can be used."""
        del task
        valid = np.asarray(batch.valid, bool)
        partial: dict[str, np.ndarray] = {"image": np.asarray(batch.positions, np.int64)[valid]}
        seen = {layer.name: batch.observed(self.name, layer.name) for layer in self._chosen(subject)}
        for name, found in seen.items():
            for spec in _PER_LAYER:
                values = getattr(found, spec.path.rpartition("/")[2]).cpu().numpy()
                partial[spec.path.format(layer=name)] = values.astype(spec.dtype)[valid]
        for spec in (SILENT, SPARSITY):
            columns = [getattr(found, spec.path).cpu().numpy() for found in seen.values()]
            partial[spec.path] = np.stack(columns, axis=1).astype(spec.dtype)[valid]
        return Result(partial=partial)

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the images."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Put the images into the order in which they were chosen."""
        arrays = {size.path: np.full(size.shape, size.spec.fill, size.spec.dtype) for size in self.writes(subject)}
        images, n = self._images(subject, stored), 0
        if partials:
            total = reduce(self.combine, partials)
            place = {position: row for row, position in enumerate(total["image"].tolist())}
            rows = [place[position] for position in images if position in place]
            n = len(rows)
            for path, array in arrays.items():
                array[:n] = total[path][rows]
        notes = {
            "images": n,
            "layers": [layer.name for layer in self._chosen(subject)],
            "order": self.order,
            "definition": "Each channel is scaled by itself, in each image, from its smallest value (dark) to its "
            "largest (light). A channel fires in an image when its largest value there is above zero.",
        }
        return Summary(arrays, notes=notes)

    def _size(self, layer: LayerSpec) -> tuple[int, tuple[int, ...]]:
        return min(self.channels, layer.shape[0]), small_space(layer.shape[1:], self.side, self.steps)

    def _chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        if len(subject.axes) > 2:
            raise ConfigError(f"feature_maps: expected data with 1 or 2 spatial axes, got {subject.axes}; leave it out")
        found = [
            layer
            for layer in select_layers(self.layers, subject.layers)
            if math.prod(layer.shape[1:]) > 1
            and len(layer.shape) == 1 + len(subject.axes)
            and (layer.kind in _KINDS or layer.name in self.layers)
        ]
        if not found:
            raise ConfigError(f"feature_maps.layers: {', '.join(self.layers)} choose no layer with several positions")
        return tuple(found)

    def _images(self, subject: Subject, stored: Stored) -> tuple[int, ...]:
        facts: Mapping[str, np.ndarray] = {
            key: np.asarray(stored[f"predictions/{key}"][:]) for key in ("predicted", "confidence", "status")
        }
        return choose(
            self.images,
            subject.image_id,
            np.asarray(subject.label),
            facts["predicted"],
            facts["confidence"],
            facts["status"] == 0,
            self.max_images,
        )
