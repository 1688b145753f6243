"""Saliency: the gradient of a class's logit by the pixels (Simonyan, Vedaldi and Zisserman 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Gradient, Subject
from ..specs import ArraySpec, SizedArray
from .method import Method, resolve_target

if TYPE_CHECKING:
    from ..network.batch import Batch

Reduction = Literal["max_abs", "sum_abs", "sum"]

HEATMAP = ArraySpec(
    "heatmap",
    ("image", "*space"),
    "float16",
    "logit per network input",
    "Gradient of the target's logit by the input, one value per position; times scale. Largest magnitude: 1.",
)
SCALE = ArraySpec(
    "scale", ("image",), "float32", "1", "What to multiply the heatmap with; 0 where it is zero throughout."
)


def saliency(gradient: Float[Tensor, "image channel *space"], reduction: Reduction) -> Float[Tensor, "image ..."]:
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


def scaled(
    heatmap: Float[np.ndarray, "image ..."],
) -> tuple[Float[np.ndarray, "image ..."], Float[np.ndarray, " image"]]:
    """Split heatmaps into half-precision shapes with largest magnitude 1, and what to multiply them with.

    Half precision alone would lose gradients below 6e-8, which are common in deep networks.

    Parameters
    ----------
    heatmap
        One map per image.

    Returns
    -------
    tuple[Float[np.ndarray, "image ..."], Float[np.ndarray, " image"]]
        float16 between -1 and 1, and float32 scales; both NaN for a map that is not finite throughout.
    """
    flat = heatmap.reshape(len(heatmap), -1).astype(np.float64)
    scale = np.abs(flat).max(axis=1)
    finite = np.isfinite(scale)
    divisor = np.where(finite & (scale > 0), scale, 1.0)
    shape = np.where(finite[:, None], flat / divisor[:, None], np.nan)
    return shape.reshape(heatmap.shape).astype(np.float16), np.where(finite, scale, np.nan).astype(np.float32)


@dataclass(frozen=True)
class Saliency(Method):
    """Gradient by the input.

    Parameters
    ----------
    target
        Whose logit is derived.
    reduction
        How channels become one value per position.
    """

    target: str | int = "predicted"
    reduction: Reduction = "max_abs"

    conserves: ClassVar[bool] = False
    unit: ClassVar[str] = HEATMAP.unit
    documents: ClassVar[tuple[ArraySpec, ...]] = (HEATMAP, SCALE)

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Only the plain sum keeps the sign."""
        return self.reduction == "sum"

    def writes(self, subject: Subject) -> tuple[SizedArray, ...]:
        """One map at input resolution and one scale per image."""
        n, space = subject.n_image, subject.input_shape[1:]
        return HEATMAP.sized((n, *space), subject.axes), SCALE.sized((n,))

    def asks(self, subject: Subject) -> Ask:
        """One backward pass to the input."""
        return Ask(gradients=(Gradient(resolve_target(self.target, subject), "input"),))

    def attribute(self, batch: Batch, subject: Subject) -> Mapping[str, np.ndarray]:
        """Reduce the gradient that the sweep computed."""
        gradient = batch.gradient(resolve_target(self.target, subject), "input")
        heatmap, scale = scaled(saliency(gradient, self.reduction).float().cpu().numpy())
        return {"heatmap": heatmap, "scale": scale}
