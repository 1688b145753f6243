"""Grad-CAM: channels of a layer, weighted by the mean gradient of a class's logit (Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Gradient, Subject
from ..errors import ConfigError
from ..selectors import select_layers
from ..specs import ArraySpec, LayerSpec, SizedArray
from .method import Method, resolve_target

if TYPE_CHECKING:
    from ..network.batch import Batch

HEATMAP = ArraySpec(
    "{layer}/heatmap",
    ("image", "*space"),
    "float32",
    "logit",
    "Sum of the layer's channels, weighted by the spatial mean of the target logit's gradient, at layer resolution.",
)


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
class GradCam(Method):
    """Grad-CAM at chosen layers.

    Parameters
    ----------
    layers
        Layer selectors; each layer needs spatial axes.
    target
        Whose logit is derived.
    relu
        Whether evidence against the class is cut off, as in the paper.
    """

    layers: tuple[str, ...] = ("last_map",)
    target: str | int = "predicted"
    relu: bool = True

    conserves: ClassVar[bool] = False
    unit: ClassVar[str] = HEATMAP.unit
    documents: ClassVar[tuple[ArraySpec, ...]] = (HEATMAP,)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("attributions.methods.grad_cam.layers: expected at least one layer selector, got none")

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Signed unless the ReLU cuts it off."""
        return not self.relu

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One map per layer, at the resolution of the layer."""
        return tuple(
            HEATMAP.sized((subject.n_image, *layer.shape[1:]), _axes(layer, subject), layer=layer.name)
            for layer in self._chosen(subject)
        )

    def asks(self, subject: Subject) -> Ask:
        """One backward pass down to the earliest of the layers."""
        target = resolve_target(self.target, subject)
        return Ask(gradients=tuple(Gradient(target, layer.name) for layer in self._chosen(subject)))

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Combine activations and gradients that the sweep computed."""
        target = resolve_target(self.target, subject)
        rows = {}
        for layer in self._chosen(subject):
            activation, gradient = batch.activation(layer.name), batch.gradient(target, layer.name)
            heatmap = grad_cam(activation.detach(), gradient, self.relu)
            rows[f"{layer.name}/heatmap"] = heatmap.float().cpu().numpy()
        return rows

    def _chosen(self, subject: Subject) -> tuple[LayerSpec, ...]:
        chosen = select_layers(self.layers, subject.layers)
        flat = [layer.name for layer in chosen if len(layer.shape) < 2]
        if flat:
            raise ConfigError(
                f"attributions.methods.grad_cam.layers: {', '.join(flat)} has no spatial axes; name a convolution"
            )
        return chosen


def _axes(layer: LayerSpec, subject: Subject) -> tuple[str, ...]:
    """Spatial axes of a layer: those of the data, as long as the network keeps their number."""
    if len(layer.shape) - 1 != len(subject.axes):
        raise ConfigError(
            f"attributions.methods.grad_cam.layers: {layer.name} has {len(layer.shape) - 1} spatial axes, "
            f"the data have {len(subject.axes)}; name another layer"
        )
    return subject.axes
