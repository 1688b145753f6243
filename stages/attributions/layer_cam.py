"""Layer-CAM: each value of a layer, weighted by its own positive gradient (jiang2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from .method import LayerMethod, gradients

if TYPE_CHECKING:
    from ..network.batch import Batch


def layer_cam(
    activation: Float[Tensor, "image channel *space"], gradient: Float[Tensor, "image channel *space"], relu: bool
) -> Float[Tensor, "image ..."]:
    """Weigh every value of a layer by its own gradient where that is positive, and add up over channels.

    Parameters
    ----------
    activation
        Output of a layer.
    gradient
        Derivative of one logit per image by that output.
    relu
        Whether evidence against the class is cut off, as in the paper; it only occurs where activations are negative.

    Returns
    -------
    Float[Tensor, "image ..."]
        Neither rescaled nor resized; the paper's tanh, by which maps of shallow layers are scaled to be joined with
        deeper ones, is left out.
    """
    heatmap = (gradient.relu() * activation).sum(dim=1)
    return heatmap.relu() if relu else heatmap


@dataclass(frozen=True)
class LayerCam(LayerMethod):
    """Layer-CAM at chosen layers, which may be early ones.

    Parameters
    ----------
    target, images, layers
        As everywhere.
    relu
        Whether evidence against the class is cut off, as in the paper.
    """

    relu: bool = True

    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = "Sum over channels of the layer's output times its positive gradient."

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
        return layer_cam(batch.activation(layer), batch.gradient(target, layer), self.relu)
