"""Small pictures of what the network saw, for every page that shows images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..specs import ArraySpec, Finding, SizedArray, Summary
from . import pictures

if TYPE_CHECKING:
    import torch

    from ..network.batch import Batch

IMAGE = ArraySpec(
    "image", ("image", "channel", "y", "x"), "uint8", "1/255", "De-normalised network input, scaled down."
)
SIGNAL = ArraySpec("signal", ("image", "channel", "time"), "float32", "input", "De-normalised network input.")

#: Half a step of 8 bits: rounding hides it anyway.
TOLERANCE = 0.5 / 255
_CACHED_VALUES = 1 << 18


@dataclass(frozen=True)
class Thumbnails(SoleLeaf):
    """De-normalised network input: pictures with at most `size` pixels on the longer side, signals as they are.

    Parameters
    ----------
    size
        Longest side in pixels; 1 to 96.
    """

    size: int = 96

    name: ClassVar[str] = "thumbnails"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (IMAGE, SIGNAL)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 96:
            raise ConfigError(f"thumbnails.size: expected 1 to 96 pixels, got {self.size}")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One picture or signal per image."""
        channel, *space = subject.input_shape
        if len(space) == 1:
            return (SIGNAL.sized((subject.n_image, channel, *space)),)
        if len(space) != 2:
            raise ConfigError(f"thumbnails: expected data with 1 or 2 spatial axes, got {subject.axes}; leave it out")
        y, x = space
        return (IMAGE.sized((subject.n_image, channel, *pictures.thumbnail_shape(y, x, self.size))),)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Undo the normalisation, scale down, and count what does not fit into 8 bits."""
        del task
        images = batch.images.detach()
        if images.ndim == 3:
            raw = pictures.denormalised(images.float(), subject.mean, subject.std)
            return Result({"signal": raw.cpu().numpy()}, _no_values())
        parts = [self._pictures(part, subject) for part in images.split(_group(images))]
        shown, count, low, high = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rows = {"image": shown}
        odd = np.asarray(batch.valid, bool) & (count > 0)
        return Result(rows, {"image": np.asarray(batch.positions, np.int64)[odd], "low": low[odd], "high": high[odd]})

    def _pictures(self, images: torch.Tensor, subject: Subject) -> tuple[np.ndarray, ...]:
        """Thumbnails, and for each image how many values they cannot show, its smallest and its largest."""
        raw = pictures.denormalised(images.float(), subject.mean, subject.std)
        shape = pictures.thumbnail_shape(raw.shape[2], raw.shape[3], self.size)
        small = pictures.as_bytes(pictures.shrunk(raw, shape))
        return tuple(array.cpu().numpy() for array in (small, *pictures.outside(raw, TOLERANCE)))

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the lists."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Say which pictures are cut off."""
        del stored
        total = reduce(self.combine, partials)
        notes = {"size": self.size, "cut_off": len(total["image"])}
        if not len(total["image"]):
            return Summary(notes=notes)
        finding = Finding(
            "thumbnails/outside-range",
            "warning",
            f"{len(total['image'])} of {subject.n_image} pictures have values outside 0..1 and are cut off",
            f"De-normalised values reach from {total['low'].min():.4g} to {total['high'].max():.4g}; either the data "
            "are no 8-bit pictures or data.preprocessing.mean and std are not those of the data.",
            tuple(sorted(map(int, total["image"]))),
        )
        return Summary(findings=(finding,), notes=notes)


def _group(images: torch.Tensor) -> int:
    """How many images to work on at a time: on a CPU as many as stay in its cache from the first step to the last."""
    each = max(1, images[:1].numel())
    return max(1, _CACHED_VALUES // each if images.device.type == "cpu" else len(images))


def _no_values() -> dict[str, np.ndarray]:
    return {"image": np.zeros(0, np.int64), "low": np.zeros(0, np.float32), "high": np.zeros(0, np.float32)}
