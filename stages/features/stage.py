"""One vector per image and layer: what the network makes of each image, for everything that compares images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contract import Ask, Partial, Result, SoleLeaf, Stored, Subject, Task
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, Finding, LayerSpec, SizedArray, Summary
from .pooling import spatial_mean

if TYPE_CHECKING:
    import torch

    from ..network.batch import Batch

FEATURE = ArraySpec(
    "{layer}", ("image", "feature"), "float32", "activation", "Output of a layer, averaged over its spatial axes."
)


@dataclass(frozen=True)
class Features(SoleLeaf):
    """Spatial means of chosen layers.

    Parameters
    ----------
    layers
        Layer selectors; ``"penultimate"`` is the input of the last linear layer, without one what precedes the last
        convolution.
    """

    layers: tuple[str, ...] = ("penultimate", "last_conv")

    name: ClassVar[str] = "features"
    sweeps: ClassVar[bool] = True
    documents: ClassVar[tuple[ArraySpec, ...]] = (FEATURE,)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("features.layers: expected at least one layer selector, got none")

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One array per layer."""
        return tuple(
            FEATURE.sized((subject.n_image, layer.shape[0]), layer=layer.name) for layer in self._chosen(subject)
        )

    def asks(self, subject: Subject) -> Ask:
        """A look at the chosen layers."""
        return Ask(observe=tuple(layer.name for layer in self._chosen(subject)))

    def observe(self, layer: LayerSpec, activation: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pool while the forward runs, so that nothing large is kept."""
        del layer, valid
        return spatial_mean(activation)

    def process(self, batch: Batch, task: Task, subject: Subject) -> Result:
        """Hand out what was pooled."""
        del task
        names = [layer.name for layer in self._chosen(subject)]
        rows = {name: batch.observed(self.name, name).float().cpu().numpy() for name in names}
        finite = np.logical_and.reduce([np.isfinite(row).all(axis=1) for row in rows.values()])
        return Result(rows, {"not_finite": np.asarray(batch.positions, np.int64)[np.asarray(batch.valid) & ~finite]})

    def combine(self, first: Partial, second: Partial) -> Partial:
        """Chain the lists."""
        return {key: np.concatenate([first[key], second[key]]) for key in first}

    def finish(self, partials: Sequence[Partial], subject: Subject, stored: Stored) -> Summary:
        """Name the images whose features are not finite."""
        del stored
        images = sorted(int(image) for partial in partials for image in partial["not_finite"])
        notes = {"layers": [layer.name for layer in self._chosen(subject)], "definition": FEATURE.meaning}
        if not images:
            return Summary(notes=notes)
        finding = Finding(
            "features/not-finite",
            "error",
            f"{len(images)} images have features that are not finite",
            "Expected finite numbers; neighbors and embeddings of these images mean nothing. Look at the weights.",
            tuple(images),
        )
        return Summary(findings=(finding,), notes=notes)

    def _chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        return select_layers(self.layers, subject.layers)
