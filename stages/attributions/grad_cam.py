"""Grad-CAM: channels of a layer, weighted by the mean gradient of a class's logit (selvaraju2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from .method import Facts, LayerMethod, Told, gradients
from .pooled_head import PooledHead, agreement, class_maps, class_weights, find_head

if TYPE_CHECKING:
    from ..network.batch import Batch


def grad_cam(
    activation: Float[Tensor, "image channel *space"], gradient: Float[Tensor, "image channel *space"], relu: bool
) -> Float[Tensor, "image ..."]:
    """Weigh channels by their mean gradient and add them up.

    Parameters
    ----------
    activation
        Output of a layer.
    gradient
        Derivative of one logit per image by that output.
    relu
        Whether evidence against the class is cut off, as in the paper.

    Returns
    -------
    Float[Tensor, "image ..."]
        Neither rescaled nor resized.
    """
    weight = gradient.mean(dim=tuple(range(2, gradient.ndim)))  # eq. 1: alpha
    heatmap = torch.einsum("bc,bc...->b...", weight, activation)  # eq. 2
    return heatmap.relu() if relu else heatmap


@dataclass(frozen=True)
class GradCam(LayerMethod):
    """Grad-CAM at chosen layers.

    Where global average pooling and one linear layer follow a layer, its mean gradients are the linear layer's weights
    over the number of positions, so that no derivative is computed, for however many classes; in each batch the values
    have to say that it is so.

    Parameters
    ----------
    target, images, layers
        As everywhere.
    relu
        Whether evidence against the class is cut off, as in the paper.
    """

    relu: bool = True

    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = "Sum of the layer's channels, weighted by the spatial mean of the target logit's gradient."

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Signed unless the ReLU cuts it off."""
        return not self.relu

    def asks(self, subject: Subject) -> Ask:
        """The layers, and one backward pass per target, which is run where it is needed."""
        names = tuple(layer.name for layer in self.chosen(subject))
        entries = dict.fromkeys(head.entry for head in self._heads(subject).values())
        return Ask(keep=(*names, *entries), gradients=gradients(self.targets(subject), *names).gradients)

    def _heads(self, subject: Subject) -> dict[str, PooledHead]:
        found = {layer.name: find_head(subject, layer) for layer in self.chosen(subject)}
        return {name: head for name, head in found.items() if isinstance(head, PooledHead)}

    def layer_map(self, batch: Batch, subject: Subject, target: Target, layer: str) -> Tensor:
        """Weigh activations, by what the linear layer says or by gradients."""
        head = self._heads(subject).get(layer)
        activation = batch.activation(layer)
        if head is None or not _is_pooled(batch, head):
            return grad_cam(activation, batch.gradient(target, layer), self.relu)
        positions = activation[0, 0].numel()
        heatmap = class_maps(activation, class_weights(batch, head, (target,)) / positions)[:, 0]
        return heatmap.relu() if self.relu else heatmap

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """Where the cells lie, and for how many images each layer's weights were read from the linear layer."""
        heads = self._heads(subject)
        n = int(np.count_nonzero(batch.valid))
        read = {
            layer.name: layer.name in heads and _is_pooled(batch, heads[layer.name]) for layer in self.chosen(subject)
        }
        counts = {f"sum:read:{name}": np.array(n * direct) for name, direct in read.items()}
        return {**super().facts(batch, subject), **counts, "sum:images": np.array(n)}

    def told(self, facts: Facts, subject: Subject) -> Told:
        """Where each layer's weights come from."""
        notes, measurements, findings = super().told(facts, subject)
        weights = {layer.name: _source(facts, layer.name) for layer in self.chosen(subject)}
        return {**notes, "weights": weights}, measurements, findings


def _is_pooled(batch: Batch, head: PooledHead) -> bool:
    # In a shorter format what is close says little, and a derivative costs little.
    exact = all(value.dtype in (torch.float32, torch.float64) for value in (batch.logits, batch.activation(head.layer)))
    return exact and all(bool(part.all()) for part in agreement(batch, head))


def _source(facts: Mapping[str, Any], layer: str) -> str:
    n, read = int(facts.get("sum:images", 0)), int(facts.get(f"sum:read:{layer}", 0))
    if read == 0:
        return "mean gradients, by a backward pass for each target"
    some = "" if read == n else f" for {read} of {n} images, mean gradients for the others"
    return f"read from the linear layer behind global average pooling, without a backward pass{some}"
