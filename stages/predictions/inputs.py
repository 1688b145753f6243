"""What the network is fed: whether its numbers have the size that networks are trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..specs import Finding, Measurement

# Normalised input lies around zero with a spread near one; raw 0..1 values stay inside these limits too.
_FAR = 5.0
_WIDE = 10.0
_NARROW = 0.02
# So many float64 values stay in a CPU's cache between two sums; those of a whole batch take eight times as long.
_CACHED_VALUES = 1 << 18


def count(images: Float[Tensor, "image channel *space"]) -> dict[str, np.ndarray]:
    """Number, sum and sum of squares of the values of usable images, as the network sees them.

    Parameters
    ----------
    images
        Network input.

    Returns
    -------
    dict[str, ndarray]
        ``input_values``, ``input_sum`` and ``input_squares``, each of shape ``(channel,)``; to be added up.
    """
    group = _CACHED_VALUES // max(1, images[:1].numel()) if images.device.type == "cpu" else len(images)
    sums = torch.stack([_sums(part) for part in images.split(max(1, group))]).sum(dim=0).cpu().numpy()
    return {
        "input_values": np.full(images.shape[1], images[:, 0].numel(), np.int64),
        "input_sum": sums[0],
        "input_squares": sums[1],
    }


def _sums(images: Float[Tensor, "image channel *space"]) -> Float[Tensor, "2 channel"]:
    values = images.double().transpose(0, 1).flatten(1)
    return torch.stack([values.sum(dim=1), values.square().sum(dim=1)])


def moments(total: Mapping[str, np.ndarray]) -> tuple[Float[np.ndarray, " channel"], float, int]:
    """Mean of each channel, standard deviation inside a channel (root mean square over channels), number of values.

    NaN where there are none.
    """
    n = int(total["input_values"].sum())
    if not n:
        return np.full(len(total["input_sum"]), math.nan), math.nan, 0
    mean = total["input_sum"] / total["input_values"]
    variance = np.maximum(total["input_squares"] / total["input_values"] - mean**2, 0.0)
    return mean, math.sqrt(float(variance.mean())), n


def measurements(total: Mapping[str, np.ndarray]) -> tuple[Measurement, ...]:
    """Mean and spread of the input."""
    mean, spread, n = moments(total)
    what = "of the values that the network is fed, over usable images"
    path = "predictions/status"
    return (
        Measurement("predictions/input_mean", float(mean.mean()), "1", "neither", n, path, f"Mean {what}."),
        Measurement(
            "predictions/input_std",
            spread,
            "1",
            "neither",
            n,
            path,
            f"Standard deviation {what}, inside each channel; root mean square over channels.",
        ),
    )


def findings(total: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]) -> tuple[Finding, ...]:
    """Input of a size that no network is trained on.

    Parameters
    ----------
    total
        What `count` gives, summed over all batches.
    mean, std
        Normalisation in force, per channel.
    """
    centres, spread, n = moments(total)
    if not n or (np.abs(centres).max() <= _FAR and _NARROW <= spread <= _WIDE):
        return ()
    centre = centres[np.abs(centres).argmax()]
    return (
        Finding(
            "predictions/input-scale",
            "warning",
            f"The network is fed numbers around {centre:.3g} with a spread of {spread:.3g}: preprocessing looks wrong",
            "After normalisation, values usually lie around 0 with a spread near 1. In force: network input = (value - "
            f"mean) / std, with mean {_listed(mean)} and std {_listed(std)}. What next: set data.preprocessing.mean "
            "and std to those of the training, in units of scaled values (0 to 1 for 8-bit images, not 0 to 255).",
        ),
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
