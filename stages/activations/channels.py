"""Per-image statistics of every channel of one layer, in as few passes over memory as possible."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CACHED_BYTES = 1 << 20


#: What may be measured beside the largest value and the mean, which always are.
OPTIONAL = ("variance", "min", "mean_abs", "saturated", "sparsity")


class ChannelValues(NamedTuple):
    """What is kept of one layer's output once the forward has moved on.

    Parameters
    ----------
    peak, mean
        Largest value and mean of each channel in each image. Shape ``(image, channel)``.
    more
        What else is wanted, by name, of the same shape, over the positions of each image: ``variance`` (divided by the
        number of positions), ``min``, ``mean_abs``, ``saturated`` (share of positions at the layer's upper limit; NaN
        where it has none), ``sparsity`` (share of positions that are zero or below).
    position
        Where the peak lies: first position, in row-major order, over the flattened space; -1 where the image cannot
        be among the best. Shape ``(image, channel)``.
    """

    peak: Tensor
    mean: Tensor
    more: Mapping[str, Tensor]
    position: Tensor


def channel_values(
    activation: Float[Tensor, "image channel *space"],
    valid: Tensor,
    upper: float | None,
    top: int,
    wanted: Collection[str] = OPTIONAL,
    bar: Float[Tensor, " channel"] | None = None,
) -> ChannelValues:
    """Everything that is asked of one layer's output.

    Parameters
    ----------
    activation
        Output of the layer; not kept, not written to.
    valid
        Images that may be among the best. Shape ``(image,)``.
    upper
        Value at which the layer saturates.
    top
        How many images are best.
    wanted
        Which of `OPTIONAL` to measure. Without the variance the last bits of the mean differ.
    bar
        Value below which no image is among the best; None where none is known.
    """
    planes = as_planes(activation.detach())
    groups = [_reduced(group, upper, wanted) for group in planes.split(_group(planes))]
    line = torch.cat([group[0] for group in groups])
    peak, (mean, *more) = line.amax(1), (torch.cat(parts) for parts in zip(*(g[1] for g in groups), strict=True))
    position = torch.full_like(peak, -1, dtype=torch.int64)
    image, channel = entering(peak, valid, top, bar).nonzero(as_tuple=True)
    position[image, channel] = peak_positions(planes, line, image, channel)
    kept = [name for name in OPTIONAL if name in wanted]
    return ChannelValues(peak, mean, dict(zip(kept, more, strict=True)), position)


def _group(planes: Tensor) -> int:
    """How many images to reduce at a time: on a CPU as many as stay in its cache from the first pass to the last."""
    if planes.device.type != "cpu":
        return max(1, len(planes))
    return max(1, _CACHED_BYTES // max(1, planes[:1].numel() * planes.element_size()))


def _reduced(
    planes: Float[Tensor, "image channel line step"], upper: float | None, wanted: Collection[str]
) -> tuple[Tensor, list[Tensor]]:
    """Line maxima, then the mean and what is wanted of `OPTIONAL`, in that order, of each channel in each image."""
    line = line_maxima(planes)
    found: dict[str, Tensor] = {}
    if "variance" in wanted:
        mean, found["variance"] = moments(planes)
    else:
        mean = means(planes)
    if "min" in wanted or "mean_abs" in wanted:
        found["min"] = line_minima(planes).amin(1)
    if "mean_abs" in wanted:
        found["mean_abs"] = mean_magnitude(planes, found["min"], mean)
    if "saturated" in wanted:
        found["saturated"] = torch.full_like(mean, torch.nan) if upper is None else share_at(planes, upper)
    if "sparsity" in wanted:
        found["sparsity"] = share_silent(planes)
    return line, [mean, *(found[name] for name in OPTIONAL if name in wanted)]


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


def means(planes: Float[Tensor, "image channel line step"]) -> Float[Tensor, "image channel"]:
    """Mean of each channel in each image; half the work of `moments`."""
    if _channels_lie_last(planes):
        return planes.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
    return planes.float().mean((2, 3)) if planes.device.type != "cpu" else planes.mean((2, 3))


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


def share_silent(planes: Float[Tensor, "image channel line step"]) -> Float[Tensor, "image channel"]:
    """Share of positions that are zero or below; NaN is neither."""
    if planes.device.type != "cpu":
        return (planes <= 0).float().mean(dim=(2, 3))
    buffer = torch.empty_like(planes[:1])
    return torch.cat([torch.le(image, 0, out=buffer).mean(dim=(2, 3)) for image in planes.split(1)])


def entering(
    peak: Float[Tensor, "image channel"], valid: Tensor, top: int, bar: Float[Tensor, " channel"] | None
) -> Bool[Tensor, "image channel"]:
    """Images that may be among the best: every one that is, as a rule few others, never NaN or a bad image.

    Without a bar the batch sets its own, its `top`-th largest peak. What equals the bar enters, so that an image may
    have had a part in setting it.
    """
    usable = valid[:, None] & ~peak.isnan()
    if bar is None and len(peak) <= top:
        return usable
    # In the precision in which values are ranked, so that what ties there ties here.
    ranked = torch.where(usable, peak, -torch.inf).float()
    return usable & (ranked >= (ranked.topk(top, dim=0).values[-1] if bar is None else bar))


def peak_positions(
    planes: Float[Tensor, "image channel line step"],
    line: Float[Tensor, "image line channel"],
    image: Int[Tensor, " entrant"],
    channel: Int[Tensor, " entrant"],
) -> Int[Tensor, " entrant"]:
    """First position of the maximum of each entrant, over the flattened space.

    The first line that holds the maximum, then the first step in it: only that line is read again.
    """
    at_line = line[image, :, channel].argmax(-1)
    at_step = planes[image, channel, at_line, :].argmax(-1)
    return at_line * planes.shape[3] + at_step


def _channels_lie_last(planes: Tensor) -> bool:
    return planes.is_contiguous(memory_format=torch.channels_last) and not planes.is_contiguous()


def _channels_last_lines(planes: Tensor) -> Tensor:
    image, channel, line, step = planes.shape
    return planes.permute(0, 2, 3, 1).reshape(image * line, step, channel)
