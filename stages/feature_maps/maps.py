"""Small pictures of a layer's channels, each scaled by itself."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

Order = Literal["evenly", "strongest"]


class Maps(NamedTuple):
    """What is shown of one layer's output.

    Parameters
    ----------
    channel
        Which channels. Shape ``(image, shown)``.
    map
        Their values over the positions, from 0 (the smallest) to 255 (the largest); 0 throughout where all are equal
        or one is not finite. Shape ``(image, shown, *space)``.
    range
        Values that 0 and 255 stand for; NaN where one is not finite. Shape ``(image, shown, 2)``.
    fires
        Whether the largest value, before anything was averaged, is above zero. Shape ``(image, shown)``.
    silent
        How many channels of the whole layer do not fire. Shape ``(image,)``.
    sparsity
        Share of all values of the layer that are zero or below. Shape ``(image,)``.
    """

    channel: Tensor
    map: Tensor
    range: Tensor
    fires: Tensor
    silent: Tensor
    sparsity: Tensor


def maps(activation: Float[Tensor, "image channel *space"], shown: int, space: tuple[int, ...], order: Order) -> Maps:
    """Picture some channels of a layer.

    Parameters
    ----------
    activation
        Output of the layer; not kept, not written to.
    shown
        Channels per image, at most those of the layer.
    space
        Size of a picture: no axis longer than the layer's.
    order
        ``"evenly"``: spaced over the layer, from channel 0 on; ``"strongest"``: those with the largest values in the
        image, best first, ties to the lower channel.
    """
    peak = activation.flatten(2).amax(2)
    channel = _channels(peak, shown, order)
    image = torch.arange(len(peak), device=peak.device)[:, None]
    small, low, high = _scaled(shrunk(activation[image, channel].float(), space))
    fires = peak > 0
    sparsity = (activation <= 0).flatten(1).sum(1) / activation[0].numel()
    return Maps(channel, small, torch.stack([low, high], -1), fires[image, channel], (~fires).sum(1), sparsity)


def _channels(peak: Float[Tensor, "image channel"], shown: int, order: Order) -> Int[Tensor, "image shown"]:
    if order == "strongest":
        return torch.sort(peak.nan_to_num(-torch.inf), dim=1, descending=True, stable=True).indices[:, :shown]
    n = peak.shape[1]
    return (torch.arange(shown, device=peak.device) * n // shown).expand(len(peak), -1)


def shrunk(
    values: Float[Tensor, "image channel *space"], space: tuple[int, ...]
) -> Float[Tensor, "image channel *small"]:
    """Means over neighbouring positions; unchanged where the size fits already."""
    if tuple(values.shape[2:]) == space:
        return values
    if len(space) == 1:
        return F.adaptive_avg_pool1d(values, space[0])
    return F.adaptive_avg_pool2d(values, (space[0], space[1]))


def small_space(space: tuple[int, ...], side: int, steps: int) -> tuple[int, ...]:
    """Size of a picture of a layer: the longest side at most `side`, or of a signal `steps`; never below 1.

    Parameters
    ----------
    space
        One or two spatial axes of the layer.
    side, steps
        Limits in positions.
    """
    limit, longest = steps if len(space) == 1 else side, max(space)
    return space if longest <= limit else tuple(max(1, round(length * limit / longest)) for length in space)


def _scaled(
    values: Float[Tensor, "image shown *space"],
) -> tuple[UInt8[Tensor, "image shown *space"], Float[Tensor, "image shown"], Float[Tensor, "image shown"]]:
    flat = values.flatten(2)
    low, high = flat.amin(2), flat.amax(2)
    finite: Bool[Tensor, "image shown"] = low.isfinite() & high.isfinite()
    spread = finite & (high > low)
    scale = torch.where(spread, 255 / (high - low), 0.0)
    pixels = torch.where(spread[..., None], (flat - low[..., None]) * scale[..., None], 0.0).round().clamp(0, 255)
    low, high = (torch.where(finite, edge, torch.nan) for edge in (low, high))
    return pixels.to(torch.uint8).view(values.shape), low, high
