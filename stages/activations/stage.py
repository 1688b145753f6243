"""How every channel of every convolution and ReLU behaves over the whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Ask, Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, SizedArray, Summary
from .channels import ChannelValues, channel_values
from .merging import merge, merge_ranks, ranks, summarise

if TYPE_CHECKING:
    import torch

    from ..network.batch import Batch

_OVER = "over all usable images and positions"
STATISTICS = tuple(
    ArraySpec(f"{{layer}}/{name}", ("channel",), dtype, unit, meaning)
    for name, dtype, unit, meaning in (
        ("fired", "int64", "image", "Usable images in which the channel is above zero somewhere."),
        ("rate", "float64", "1", "Share of usable images in which the channel is above zero somewhere."),
        ("mean", "float64", "activation", f"Mean {_OVER}."),
        ("variance", "float64", "activation^2", f"Population variance {_OVER}."),
        ("min", "float64", "activation", f"Smallest value {_OVER}."),
        ("max", "float64", "activation", f"Largest value {_OVER}."),
        ("mean_abs", "float64", "activation", f"Mean absolute value {_OVER}."),
        ("saturated", "float64", "1", f"Share of values at the layer's upper limit {_OVER}; NaN where it has none."),
    )
)
TOP_VALUE = ArraySpec(
    "{layer}/top_value", ("channel", "rank"), "float32", "activation", "Largest values, one per image, best first."
)
TOP_IMAGE = ArraySpec(
    "{layer}/top_image", ("channel", "rank"), "int64", "image", "Images of the largest values; ties: the earlier image."
)
TOP_POSITION = ArraySpec(
    "{layer}/top_position",
    ("channel", "rank", "axis"),
    "int32",
    "position",
    "Where in the layer's output the largest value lies, per spatial axis; ties: the first in row-major order.",
)


@dataclass(frozen=True)
class Activations(SoleLeaf):
    """Channel statistics and the images that excite each channel most.

    Parameters
    ----------
    layers
        Layer selectors.
    top
        Images kept per channel; at least 1.
    """

    layers: tuple[str, ...] = ("kind:conv", "kind:relu")
    top: int = 9

    name: ClassVar[str] = "activations"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (*STATISTICS, TOP_VALUE, TOP_IMAGE, TOP_POSITION)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("activations.layers: expected at least one layer selector, got none")
        if self.top < 1:
            raise ConfigError(f"activations.top: expected 1 or more images per channel, got {self.top}")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Per layer the statistics and the ranking; without spatial axes there is no position."""
        sized = []
        for layer in self._chosen(subject):
            channel, axes = layer.shape[0], len(layer.shape) - 1
            sized += [spec.sized((channel,), layer=layer.name) for spec in STATISTICS]
            sized += [spec.sized((channel, self.top), layer=layer.name) for spec in (TOP_VALUE, TOP_IMAGE)]
            if axes:
                sized.append(TOP_POSITION.sized((channel, self.top, axes), layer=layer.name))
        return tuple(sized)

    def asks(self, subject: Subject) -> Ask:
        """A look at every chosen layer."""
        return Ask(observe=tuple(layer.name for layer in self._chosen(subject)))

    def observe(self, layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> ChannelValues:
        """Reduce one layer while the forward runs."""
        return channel_values(activation, valid, layer.upper, self.top)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Put the channels of all layers side by side and fold the images of the batch."""
        del task
        seen = [batch.observed(self.name, layer.name) for layer in self._chosen(subject)]
        values = [_side_by_side(tensors) for tensors in zip(*seen, strict=True)]
        valid, image = np.asarray(batch.valid, bool), np.asarray(batch.positions, np.int64)
        peak, low, mean, variance, mean_abs, saturated = (array[valid] for array in values[:6])
        statistics = summarise(peak, low, mean, variance, mean_abs, saturated)
        return Result(partial=statistics | ranks(values[0], values[6], values[7], image, valid))

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Merge two disjoint sets of images."""
        return merge(first, second) | merge_ranks(first, second, self.top)

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Split the statistics by layer again."""
        del stored
        total = reduce(self.combine, partials)
        n, arrays, broken = int(total["n"]), {}, []
        for layer, columns in _columns(self._chosen(subject)):
            arrays |= {
                f"{layer.name}/{key}": array for key, array in _layer_arrays(layer, columns, total, self.top).items()
            }
            if n and not np.isfinite(total["mean"][columns]).all():
                broken.append(_not_finite(layer, np.flatnonzero(~np.isfinite(total["mean"][columns]))))
        notes = {
            "n": n,
            "top": self.top,
            "layers": [layer.name for layer in self._chosen(subject)],
            "definition": "A channel fires in an image when its largest value there is above zero.",
        }
        return Summary(arrays, (), tuple(broken), notes)

    def _chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        return select_layers(self.layers, subject.layers)


def _side_by_side(tensors: Sequence[torch.Tensor]) -> Any:
    import torch

    return torch.cat([tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors], 1).cpu().numpy()


def _columns(layers: Sequence[LayerSpec]) -> Iterator[tuple[LayerSpec, slice]]:
    start = 0
    for layer in layers:
        yield layer, slice(start, start + layer.shape[0])
        start += layer.shape[0]


def _layer_arrays(layer: LayerSpec, columns: slice, total: Partial, top: int) -> dict[str, np.ndarray]:
    """The stored arrays of one layer; what no image could fill is NaN or -1."""
    n = int(total["n"])
    arrays: dict[str, np.ndarray] = {"fired": total["fired"][columns]}
    arrays["rate"] = arrays["fired"] / n if n else np.full(layer.shape[0], np.nan)
    for key in ("mean", "variance", "min", "max", "mean_abs", "saturated"):
        arrays[key] = total[key][columns] if n else np.full(layer.shape[0], np.nan)
    return arrays | _layer_ranks(layer, columns, total, top)


def _layer_ranks(layer: LayerSpec, columns: slice, total: Partial, top: int) -> dict[str, np.ndarray]:
    value, image, position = (_padded(total[key][columns], top) for key in ("top_value", "top_image", "top_position"))
    empty = image < 0
    arrays = {"top_value": np.where(empty, np.nan, value).astype(np.float32), "top_image": image}
    if len(layer.shape) > 1:
        where = np.stack(np.unravel_index(np.where(empty, 0, position), layer.shape[1:]), axis=-1)
        arrays["top_position"] = np.where(empty[..., None], -1, where).astype(np.int32)
    return arrays


def _padded(ranked: np.ndarray, top: int) -> np.ndarray:
    """Fill up to `top` ranks where the data set has fewer images."""
    return np.pad(ranked, ((0, 0), (0, top - ranked.shape[1])), constant_values=-1)


def _not_finite(layer: LayerSpec, channels: Mapping[int, int] | np.ndarray) -> Finding:
    return Finding(
        "activations/not-finite",
        "error",
        f"{len(channels)} of {layer.shape[0]} channels of {layer.name} hold values that are not finite",
        "Expected finite numbers; their statistics mean nothing. Look at the layer's weights and at the input range.",
        layer=layer.name,
        channels=tuple(map(int, channels)),
    )
