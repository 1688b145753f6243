"""Per-image statistics of every channel of one layer, in as few passes over memory as possible."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CACHED_BYTES = 1 << 20


class ChannelValues(NamedTuple):
    """What is kept of one layer's output once the forward has moved on.

    Parameters
    ----------
    peak, low
        Largest and smallest value of each channel in each image. Shape ``(image, channel)``.
    mean, variance, mean_abs
        Over the positions of each image; the variance divides by the number of positions.
    saturated
        Share of positions at the layer's upper limit; NaN where it has none.
    entrant
        Images with the largest peaks, best first, as rows of the batch. Shape ``(rank, channel)``.
    position
        Where in the entrant the peak lies: first position, in row-major order, over the flattened space.
    """

    peak: Tensor
    low: Tensor
    mean: Tensor
    variance: Tensor
    mean_abs: Tensor
    saturated: Tensor
    entrant: Tensor
    position: Tensor


def channel_values(
    activation: Float[Tensor, "image channel *space"], valid: Tensor, upper: float | None, top: int
) -> ChannelValues:
    """Everything that is asked of one layer's output.

    Parameters
    ----------
    activation
        Output of the layer; not kept, not written to.
    valid
        Images that may be entrants. Shape ``(image,)``.
    upper
        Value at which the layer saturates.
    top
        Entrants per channel, at most the images of the batch.
    """
    planes = as_planes(activation.detach())
    groups = [_reduced(group, upper) for group in planes.split(_group(planes))]
    line, low, mean, variance, mean_abs, saturated = (torch.cat(parts) for parts in zip(*groups, strict=True))
    peak = line.amax(1)
    entrant = entrants(peak, valid, top)
    return ChannelValues(peak, low, mean, variance, mean_abs, saturated, entrant, peak_positions(planes, line, entrant))


def _group(planes: Tensor) -> int:
    """How many images to reduce at a time: on a CPU as many as stay in its cache from the first pass to the last."""
    if planes.device.type != "cpu":
        return max(1, len(planes))
    return max(1, _CACHED_BYTES // max(1, planes[:1].numel() * planes.element_size()))


def _reduced(planes: Float[Tensor, "image channel line step"], upper: float | None) -> tuple[Tensor, ...]:
    """Line maxima, minimum, mean, variance, mean magnitude and saturated share of each channel in each image."""
    line, low = line_maxima(planes), line_minima(planes).amin(1)
    mean, variance = moments(planes)
    saturated = torch.full_like(mean, torch.nan) if upper is None else share_at(planes, upper)
    return line, low, mean, variance, mean_magnitude(planes, low, mean), saturated


def as_planes(activation: Float[Tensor, "image channel *space"]) -> Float[Tensor, "image channel line step"]:
    """View a layer's output with two spatial axes: lines, and steps along a line (all but the first spatial axis)."""
    image, channel = activation.shape[:2]
    lines = activation.shape[2] if activation.ndim > 2 else 1
    return activation.reshape(image, channel, lines, math.prod(activation.shape[3:]))


def line_maxima(planes: Float[Tensor, "image channel line step"]) -> Float[Tensor, "image line channel"]:
    """Maximum of every line; the rest of the work is on these few numbers."""
    if _channels_lie_last(planes):
        return _channels_last_lines(planes).amax(1).view(len(planes), planes.shape[2], planes.shape[1])
    return planes.amax(3).transpose(1, 2)


def line_minima(planes: Float[Tensor, "image channel line step"]) -> Float[Tensor, "image line channel"]:
    """Minimum of every line."""
    if _channels_lie_last(planes):
        return _channels_last_lines(planes).amin(1).view(len(planes), planes.shape[2], planes.shape[1])
    return planes.amin(3).transpose(1, 2)


def moments(
    planes: Float[Tensor, "image channel line step"],
) -> tuple[Float[Tensor, "image channel"], Float[Tensor, "image channel"]]:
    """Mean and population variance of each channel in each image.

    Two-pass within an image, so that a large mean does not swallow a small variance.
    """
    if planes.device.type != "cpu":
        variance, mean = torch.var_mean(planes.float(), dim=(2, 3), correction=0)
        return mean, variance
    # The statistics kernel of batch norm runs over memory in order for both layouts; var_mean is 25 times slower on
    # channels that lie last. Image by image, because it adds up in the tensor's own precision.
    pairs = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in planes.split(1)]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def mean_magnitude(
    planes: Float[Tensor, "image channel line step"],
    low: Float[Tensor, "image channel"],
    mean: Float[Tensor, "image channel"],
) -> Float[Tensor, "image channel"]:
    """Mean of the absolute values of each channel in each image; the mean itself where nothing is negative."""
    if planes.device.type != "cpu":
        return planes.abs().mean(dim=(2, 3))
    if not bool((low < 0).any()):
        return mean
    # One image at a time through one buffer stays in the cache; a whole batch of absolute values does not.
    buffer = torch.empty_like(planes[:1])
    return torch.cat([torch.abs(image, out=buffer).mean(dim=(2, 3)) for image in planes.split(1)])


def share_at(planes: Float[Tensor, "image channel line step"], upper: float) -> Float[Tensor, "image channel"]:
    """Share of positions that have reached `upper`."""
    if planes.device.type != "cpu":
        return (planes >= upper).float().mean(dim=(2, 3))
    buffer = torch.empty_like(planes[:1])
    return torch.cat([torch.ge(image, upper, out=buffer).mean(dim=(2, 3)) for image in planes.split(1)])


def entrants(peak: Float[Tensor, "image channel"], valid: Tensor, top: int) -> Int[Tensor, "rank channel"]:
    """Rows of the images with the largest peaks, best first; ties go to the lower row, NaN and bad images last."""
    usable = valid[:, None] & ~peak.isnan()
    ranked = torch.where(usable, peak, -torch.inf)
    return torch.sort(ranked, dim=0, descending=True, stable=True).indices[:top]


def peak_positions(
    planes: Float[Tensor, "image channel line step"],
    line: Float[Tensor, "image line channel"],
    entrant: Int[Tensor, "rank channel"],
) -> Int[Tensor, "rank channel"]:
    """First position of the maximum of each entrant, over the flattened space.

    The first line that holds the maximum, then the first step in it: only that line is read again.
    """
    channel = torch.arange(planes.shape[1], device=planes.device).expand_as(entrant)
    at_line = line[entrant, :, channel].argmax(-1)
    at_step = planes[entrant, channel, at_line, :].argmax(-1)
    return at_line * planes.shape[3] + at_step


def _channels_lie_last(planes: Tensor) -> bool:
    return planes.is_contiguous(memory_format=torch.channels_last) and not planes.is_contiguous()


def _channels_last_lines(planes: Tensor) -> Tensor:
    image, channel, line, step = planes.shape
    return planes.permute(0, 2, 3, 1).reshape(image * line, step, channel)
