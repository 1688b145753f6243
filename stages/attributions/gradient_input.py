"""Gradient times input: what a logit's linear part at this image adds up from (shrikumar2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from .method import PixelMethod, gradients

if TYPE_CHECKING:
    from ..network.batch import Batch


def gradient_times_input(
    gradient: Float[Tensor, "image channel *space"], images: Float[Tensor, "image channel *space"]
) -> Float[Tensor, "image ..."]:
    """Multiply a gradient with its input and add up over channels.

    Parameters
    ----------
    gradient
        Derivative of one logit per image by the network's input.
    images
        The input, normalised.

    Returns
    -------
    Float[Tensor, "image ..."]
        Signed; adds up to the logit less its bias where the network is linear.
    """
    return (gradient * images).sum(dim=1)


@dataclass(frozen=True)
class GradientInput(PixelMethod):
    """Gradient times input."""

    signed: ClassVar[bool] = True
    unit: ClassVar[str] = "logit"
    meaning: ClassVar[str] = "Gradient of the target's logit by the input, times the input, summed over channels."

    def asks(self, subject: Subject) -> Ask:
        """One backward pass to the input, shared with every method that asks the same."""
        return gradients(self.targets(subject), "input")

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Multiply what the sweep computed."""
        del subject
        return gradient_times_input(batch.gradient(target, "input"), batch.images)
