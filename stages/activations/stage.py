"""How every channel of every convolution and ReLU behaves over the whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contract import Ask, Observe, Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, SizedArray, Summary
from .channels import OPTIONAL, ChannelValues, channel_values
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
        ("sparsity", "float64", "1", f"Share of values that are zero or below {_OVER}; NaN is neither."),
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
        Layer selectors; None for every convolution, and every ReLU where the network has any.
    top
        Images kept per channel; at least 1.
    statistics
        What is measured beside fired, rate, mean, max and the best images, which come at the price of two passes over
        memory: any of variance, min, mean_abs, saturated and sparsity, each a pass or two of its own.
    """

    layers: tuple[str, ...] | None = None
    top: int = 9
    statistics: tuple[str, ...] = OPTIONAL

    name: ClassVar[str] = "activations"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (*STATISTICS, TOP_VALUE, TOP_IMAGE, TOP_POSITION)

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise ConfigError("activations.layers: expected at least one layer selector, got none")
        if self.top < 1:
            raise ConfigError(f"activations.top: expected 1 or more images per channel, got {self.top}")
        unknown = [name for name in self.statistics if name not in OPTIONAL]
        if unknown:
            raise ConfigError(f"activations.statistics: expected any of {', '.join(OPTIONAL)}, got {unknown[0]!r}")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """Per layer the statistics and the ranking; without spatial axes there is no position."""
        sized = []
        for layer in self._chosen(subject):
            channel, axes = layer.shape[0], len(layer.shape) - 1
            sized += [spec.sized((channel,), layer=layer.name) for spec in self._statistics()]
            sized += [spec.sized((channel, self.top), layer=layer.name) for spec in (TOP_VALUE, TOP_IMAGE)]
            if axes:
                sized.append(TOP_POSITION.sized((channel, self.top, axes), layer=layer.name))
        return tuple(sized)

    def asks(self, subject: Subject) -> Ask:
        """A look at every chosen layer."""
        return Ask(observe=tuple(layer.name for layer in self._chosen(subject)))

    def observer(self, subject: Subject, so_far: Partial | None) -> Observe:
        """Reduce each layer while the forward runs; positions only of images that can still be among the best."""
        if so_far is None or so_far["top_value"].shape[1] < self.top:
            return self.observe
        worst = so_far["top_value"][:, -1]
        bars = {layer.name: worst[columns] for layer, columns in _columns(self._chosen(subject))}

        def observe(layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> ChannelValues:
            bar = valid.new_tensor(bars[layer.name], dtype=activation.dtype)
            return channel_values(activation, valid, layer.upper, self.top, self.statistics, bar)

        return observe

    def observe(self, layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> ChannelValues:
        """Reduce one layer while the forward runs."""
        return channel_values(activation, valid, layer.upper, self.top, self.statistics)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Put the channels of all layers side by side and fold the images of the batch."""
        del task
        seen: list[ChannelValues] = [batch.observed(self.name, layer.name) for layer in self._chosen(subject)]
        peak, mean, position = (_side_by_side([getattr(v, key) for v in seen]) for key in ("peak", "mean", "position"))
        more = {name: _side_by_side([values.more[name] for values in seen]) for name in seen[0].more}
        valid, image = np.asarray(batch.valid, bool), np.asarray(batch.positions, np.int64)
        statistics = summarise(peak[valid], mean[valid], {name: values[valid] for name, values in more.items()})
        return Result(partial=statistics | ranks(peak, position, image, self.top))

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
            "definition": "A channel fires in an image when its largest value there is above zero. "
            "Sparsity is the share of values that are zero or below, of a convolution as of what follows it.",
        }
        return Summary(arrays, (), tuple(broken), notes)

    def _statistics(self) -> tuple[ArraySpec, ...]:
        left_out = {f"{{layer}}/{name}" for name in OPTIONAL if name not in self.statistics}
        return tuple(spec for spec in STATISTICS if spec.path not in left_out)

    def _chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        if self.layers is None:
            return tuple(layer for layer in subject.layers if layer.kind in ("conv", "relu"))
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
    for key in ("mean", "max", *(name for name in OPTIONAL if name in total)):
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
