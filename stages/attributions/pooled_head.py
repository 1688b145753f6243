"""Networks whose logits are a linear function of a layer's spatial means: no derivative is needed to explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..contract import Subject, Target
from ..specs import LayerSpec

if TYPE_CHECKING:
    from ..network.batch import Batch

#: How far a mean may be off, as a share of the mean magnitude; the products of a linear layer lose some bits more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_SHORT = 2e-2
_PRODUCTS = 10.0


@dataclass(frozen=True)
class PooledHead:
    """A layer, global average pooling and the last linear layer, as far as the list of layers can tell.

    Parameters
    ----------
    layer
        What is pooled.
    linear
        The last linear layer, by the name of its module.
    entry
        Its input, by the name of the layer.
    """

    layer: str
    linear: str
    entry: str


def find_head(subject: Subject, layer: LayerSpec) -> PooledHead | str:
    """Look for global average pooling and a linear layer behind a layer.

    Parameters
    ----------
    subject
        What is audited.
    layer
        What may be pooled.

    Returns
    -------
    PooledHead | str
        Why there is none, where the layers tell; whether their values agree, `agreement` tells.
    """
    if not any(other.kind == "conv" for other in subject.layers):
        return f"the network has no convolution among its {len(subject.layers)} layers"
    entries = [other for other in subject.layers if other.kind == "input"]
    linears = [other for other in subject.layers if other.kind == "linear"]
    if not entries or not linears:
        return f"the network has no linear layer; its last layer is {_told(subject.layers[-1])}"
    entry, linear = entries[-1], linears[-1]
    if entry.shape != layer.shape[:1]:
        return (
            f"the last linear layer, {linear.name}, gets {entry.shape} features, not one for each of the "
            f"{layer.shape[0]} channels of {layer.name}"
        )
    if linear.shape != (subject.n_class,):
        return f"the last linear layer, {linear.name}, gives {linear.shape}, not {subject.n_class} logits"
    return PooledHead(layer.name, entry.name.removesuffix(".input").partition("#")[0], entry.name)


def _told(layer: LayerSpec) -> str:
    return f"{layer.name} ({layer.module}, {layer.shape})"


def agreement(batch: Batch, head: PooledHead) -> tuple[Bool[np.ndarray, " image"], Bool[np.ndarray, " image"]]:
    """Whether the values of each image are what global average pooling and the linear layer give.

    Returns
    -------
    tuple
        Whether the means of the layer are the linear layer's input, and whether its weights make the logits of it;
        True for bad images and for those whose logits are not finite, which have no map anyway.
    """
    return batch.once(("pooled head", head), lambda: _compare(batch, head))


def _compare(batch: Batch, head: PooledHead) -> tuple[np.ndarray, np.ndarray]:
    activation, entry, logits = batch.activation(head.layer), batch.activation(head.entry), batch.logits
    weight, bias = parameters(batch, head)
    # In double precision, so that only what the network itself rounded makes a difference.
    space = tuple(range(2, activation.ndim))
    mean, size = (value.mean(space, dtype=torch.float64) for value in (activation, activation.abs()))
    entry, weight = entry.double(), weight.double()
    offset = torch.zeros_like(logits[0], dtype=torch.float64) if bias is None else bias.double()
    share = max(_TOLERANCE.get(dtype, _SHORT) for dtype in {batch.logits.dtype, batch.activation(head.layer).dtype})
    pooled = ((mean - entry).abs() <= share * size).all(1)
    made, most = entry @ weight.T + offset, entry.abs() @ weight.abs().T + offset.abs()
    linear = ((logits.double() - made).abs() <= _PRODUCTS * share * most).all(1)
    moot = ~(batch.valid & torch.isfinite(logits).all(1).cpu().numpy())
    return pooled.cpu().numpy() | moot, linear.cpu().numpy() | moot


def parameters(batch: Batch, head: PooledHead) -> tuple[Float[Tensor, "class channel"], Tensor | None]:
    """Weights and biases of the linear layer, as the network's variant has them."""
    weight = batch.parameter(f"{head.linear}.weight")
    assert weight is not None, "every linear layer has weights"
    return weight, batch.parameter(f"{head.linear}.bias")


def class_weights(batch: Batch, head: PooledHead, targets: Sequence[Target]) -> Float[Tensor, "image target channel"]:
    """Weight of each channel in what is explained; NaN for an image without such a target."""
    weight, _ = parameters(batch, head)
    return torch.stack([_rows(batch, weight, target) for target in targets], dim=1)


def _rows(batch: Batch, weight: Tensor, target: Target) -> Tensor:
    classes = torch.from_numpy(batch.target_class(target)).to(weight.device)
    rows = weight[classes.clamp(min=0)]
    if target == "contrast":
        labels = torch.from_numpy(batch.target_class("label")).to(weight.device)
        rows = rows - weight[labels.clamp(min=0)]
    return rows.masked_fill((classes < 0)[:, None], torch.nan)


def class_maps(
    activation: Float[Tensor, "image channel *space"], weight: Float[Tensor, "image target channel"]
) -> Float[Tensor, "image target ..."]:
    """Channels of a layer, weighted and added up, for all targets in one product."""
    both = torch.promote_types(activation.dtype, weight.dtype)
    return torch.einsum("btc,bc...->bt...", weight.to(both), activation.to(both))
