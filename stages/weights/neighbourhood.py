"""What stands in front of and behind each channel of a convolution: the scale of its norm, and who reads it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from ..network.lineage import Lineage, Slot
from .kernels import reading_norms
from .table import module_name


def scale_and_shift(
    module: nn.Module | None, channels: int
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Weight and bias of a norm per channel; NaN where there is none."""
    return _vector(getattr(module, "weight", None), channels), _vector(getattr(module, "bias", None), channels)


def bias_of(module: nn.Module, channels: int) -> Float[np.ndarray, " channel"]:
    """Bias of a convolution per channel; 0 where it has none."""
    return np.zeros(channels) if getattr(module, "bias", None) is None else _vector(module.bias, channels)


def centre_and_spread(
    module: nn.Module | None, channels: int
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Mean that a norm has stored and standard deviation that it divides by, per channel; NaN where there is none."""
    variance = _vector(getattr(module, "running_var", None), channels)
    return _vector(getattr(module, "running_mean", None), channels), np.sqrt(
        variance + float(getattr(module, "eps", 0))
    )


def _vector(value: object, channels: int) -> Float[np.ndarray, " channel"]:
    if isinstance(value, Tensor) and value.numel() == channels:
        return value.detach().double().cpu().numpy().reshape(-1)
    return np.full(channels, np.nan)


class Outgoing:
    """Norms of the weights that read each channel; each reader is looked at once."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms: dict[str, Float[np.ndarray, " channel"] | None] = {}

    def of(self, lineage: Lineage, channels: int) -> Float[np.ndarray, " channel"]:
        """Euclidean norm of all weights that read each channel; NaN where something else may read it too."""
        if lineage.readers is None:
            return np.full(channels, np.nan)
        squared = np.zeros(channels)
        for slot in lineage.readers:
            squared += self._read(slot, channels)
        return np.sqrt(squared)

    def _read(self, slot: Slot, channels: int) -> Float[np.ndarray, " channel"]:
        if slot.layer not in self._norms:
            self._norms[slot.layer] = reading_norms(self._model.get_submodule(module_name(slot.layer)))
        norms = self._norms[slot.layer]
        stop = slot.first + channels * slot.width
        if norms is None or stop > len(norms):
            return np.full(channels, np.nan)
        return (norms[slot.first : stop] ** 2).reshape(channels, slot.width).sum(axis=1)
