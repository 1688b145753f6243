"""Grad-CAM: channels of a layer, weighted by the mean gradient of a class's logit (Selvaraju et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from .method import LayerMethod, gradients

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
        """One backward pass per target down to the earliest of the layers."""
        return gradients(self.targets(subject), *(layer.name for layer in self.chosen(subject)))

    def layer_map(self, batch: Batch, subject: Subject, target: Target, layer: str) -> Tensor:
        """Combine activations and gradients that the sweep computed."""
        del subject
        return grad_cam(batch.activation(layer), batch.gradient(target, layer), self.relu)
