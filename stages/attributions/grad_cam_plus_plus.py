"""Grad-CAM++: positive gradients of a layer, weighted by how much each position counts (chattopadhay2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Ask, Subject, Target
from ..specs import Finding
from .method import Facts, LayerMethod, Told, gradients

if TYPE_CHECKING:
    from ..network.batch import Batch


def grad_cam_plus_plus(
    activation: Float[Tensor, "image channel *space"],
    gradient: Float[Tensor, "image channel *space"],
    score: Float[Tensor, " image"] | None,
    relu: bool,
) -> Float[Tensor, "image ..."]:
    """Weigh channels by their positive gradients, and positions by the second and third derivatives.

    The class score is ``Y = exp(S)`` with the logit `S`, which is linear in the layer where only ReLUs and linear
    operations follow. Its derivatives are then ``exp(S)`` times the powers of the gradient `g` of `S`, so that
    ``alpha = g^2 / (2 g^2 + sum(A) g^3)``.

    Parameters
    ----------
    activation
        Output `A` of a layer; the paper takes it after a ReLU. Where it is negative the weights can turn over.
    gradient
        Derivative of `S` by that output.
    score
        `S` of each image; None to leave out the factor ``exp(S)``, which all values of a map have in common.
    relu
        Whether evidence against the class is cut off, as in the paper.

    Returns
    -------
    Float[Tensor, "image ..."]
        In double precision, neither rescaled nor resized; infinite where ``exp(S)`` is too large.
    """
    activation, gradient = activation.double(), gradient.double()
    space = tuple(range(2, gradient.ndim))
    square, cube = gradient**2, gradient**3
    below = 2 * square + activation.sum(space, keepdim=True) * cube
    alpha = torch.where(below == 0, 0.0, square / torch.where(below == 0, 1.0, below))  # of the class score exp(S)
    weight = (alpha * gradient.relu()).sum(space)
    heatmap = torch.einsum("bc,bc...->b...", weight, activation)
    heatmap = heatmap.relu() if relu else heatmap
    return heatmap if score is None else heatmap * score.double().exp().view(-1, *[1] * (heatmap.ndim - 1))


@dataclass(frozen=True)
class GradCamPlusPlus(LayerMethod):
    """Grad-CAM++ at chosen layers.

    Parameters
    ----------
    target, images, layers
        As everywhere.
    relu
        Whether evidence against the class is cut off, as in the paper.
    score
        ``"exp"``: what is derived is the exponential of the logit, as in the paper, so that maps of images with large
        logits are larger by orders of magnitude; ``"logit"``: without that common factor, comparable between images.
    """

    relu: bool = True
    score: Literal["exp", "logit"] = "exp"

    meaning: ClassVar[str] = "Sum of the layer's channels, weighted by their positive gradients, position by position."

    # A placeholder for the class, so that its arrays are described; an instance says which of the two it is.
    unit: ClassVar[str] = "exp(logit) or logit"

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
        score = explained(batch, target) if self.score == "exp" else None
        return grad_cam_plus_plus(batch.activation(layer), batch.gradient(target, layer), score, self.relu)

    def facts(self, batch: Batch, subject: Subject) -> Facts:
        """Where the cells lie, and how many images have channels that add up to less than zero."""
        counts = {}
        for layer in self.chosen(subject):
            negative = (batch.activation(layer.name).flatten(2).sum(2) < 0).any(1).cpu().numpy() & batch.valid
            counts[f"sum:negative:{layer.name}"] = np.array(int(negative.sum()))
        scores = np.stack([as_score(explained(batch, target)) for target in self.targets(subject)], 1)
        large = (scores > LARGEST).any(1) & batch.valid if self.score == "exp" else np.zeros(len(batch), bool)
        return {**super().facts(batch, subject), **counts, "sum:large": np.array(int(large.sum()))}

    def told(self, facts: Facts, subject: Subject) -> Told:
        """Warn of what the method was not made for."""
        notes, measurements, findings = super().told(facts, subject)
        negative = {layer.name: int(facts.get(f"sum:negative:{layer.name}", 0)) for layer in self.chosen(subject)}
        more = (*_negative(negative), *_large(int(facts.get("sum:large", 0))))
        unit = "exp(logit)" if self.score == "exp" else "logit"
        return {**notes, "score": self.score, "unit": unit}, measurements, (*findings, *more)


#: Above this the exponential does not fit into what is stored.
LARGEST = float(np.log(np.finfo(np.float32).max))


def explained(batch: Batch, target: Target) -> Float[Tensor, " image"]:
    """What a target's gradient is the derivative of; NaN for an image without such a target."""
    logits = batch.logits
    value = _picked(logits, batch.target_class(target))
    return value - _picked(logits, batch.target_class("label")) if target == "contrast" else value


def _picked(logits: Float[Tensor, "image class"], classes: np.ndarray) -> Float[Tensor, " image"]:
    index = torch.from_numpy(classes).to(logits.device)
    return logits.gather(1, index.clamp(min=0)[:, None])[:, 0].masked_fill(index < 0, torch.nan)


def as_score(value: Tensor) -> np.ndarray:
    """Bring scores home."""
    return value.double().cpu().numpy()


def _negative(counts: Mapping[str, int]) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            "attributions/negative-map",
            "warning",
            f"Grad-CAM++ at {layer}: in {n} images a channel adds up to less than zero",
            "Its weights are derived for maps that have passed a ReLU; here they can turn over. Choose the ReLU behind "
            "this layer, or grad_cam.",
            layer=layer,
        )
        for layer, n in counts.items()
        if n
    )


def _large(n: int) -> tuple[Finding, ...]:
    if not n:
        return ()
    return (
        Finding(
            "attributions/large-score",
            "warning",
            f"Grad-CAM++: in {n} images the exponential of the logit is too large to be stored",
            f"A logit is above {LARGEST:.1f}, so that the map is not finite; set score: logit.",
        ),
    )
