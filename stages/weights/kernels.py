"""The filters of a convolution as one array, whatever kind of convolution it is."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import conv


def filters_of(module: nn.Module) -> Float[np.ndarray, "filter plane *kernel"]:
    """The weights that make each output channel, in double precision.

    A plane is the part of a filter that reads one input channel. Parametrised weights are taken as the forward pass
    computes them.

    Parameters
    ----------
    module
        A convolution or a transposed one, with groups or without.
    """
    weight = cast("Tensor", module.weight).detach()
    if isinstance(module, conv._ConvTransposeNd):
        read, made, *kernel = weight.shape
        apart = weight.reshape(module.groups, read // module.groups, made, *kernel)
        weight = apart.transpose(1, 2).reshape(module.groups * made, read // module.groups, *kernel)
    return weight.to("cpu", torch.float64).numpy()


def reading_norms(module: nn.Module) -> Float[np.ndarray, " channel"] | None:
    """Norm of the weights with which a convolution or linear layer reads each of its input channels or features.

    Returns
    -------
    array or None
        Euclidean norms; None where the module has no such weights.
    """
    if isinstance(module, nn.Linear):
        return np.linalg.norm(module.weight.detach().to("cpu", torch.float64).numpy(), axis=0)
    if not isinstance(module, conv._ConvNd):
        return None
    filters = filters_of(module)
    groups = module.groups
    squared = (filters**2).reshape(groups, len(filters) // groups, filters.shape[1], -1)
    return np.sqrt(squared.sum(axis=(1, 3)).reshape(-1))


def norms_of(filters: Float[np.ndarray, "filter plane *kernel"]) -> Float[np.ndarray, " filter"]:
    """Euclidean norm of each filter."""
    return np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
