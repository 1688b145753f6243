"""Saliency: the gradient of a class's logit by the pixels (Simonyan, Vedaldi and Zisserman 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from .method import PixelMethod, gradients

if TYPE_CHECKING:
    from ..network.batch import Batch

Reduction = Literal["max_abs", "sum_abs", "sum"]


def reduced(gradient: Float[Tensor, "image channel *space"], reduction: Reduction) -> Float[Tensor, "image ..."]:
    """Reduce a gradient by the input to one value per position.

    Parameters
    ----------
    gradient
        Derivative of one logit per image by the network's input.
    reduction
        ``"max_abs"``: largest magnitude over channels, section 3.1 of the paper; ``"sum_abs"``: sum of magnitudes;
        ``"sum"``: signed sum.
    """
    if reduction == "sum":
        return gradient.sum(dim=1)
    return gradient.abs().amax(dim=1) if reduction == "max_abs" else gradient.abs().sum(dim=1)


@dataclass(frozen=True)
class Saliency(PixelMethod):
    """Gradient by the input.

    Parameters
    ----------
    target, images
        As everywhere.
    reduction
        How channels become one value per position.
    """

    reduction: Reduction = "max_abs"

    unit: ClassVar[str] = "logit per network input"
    meaning: ClassVar[str] = "Gradient of the target's logit by the input, one value per position."

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    def asks(self, subject: Subject) -> Ask:
        """One backward pass to the input."""
        return gradients(self.targets(subject), "input")

    def heatmap(self, batch: Batch, subject: Subject, target: Target) -> Tensor:
        """Reduce the gradient that the sweep computed."""
        del subject
        return reduced(batch.gradient(target, "input"), self.reduction)
