"""Parameter randomisation: a heatmap that stays when the weights go was never about the network (adebayo2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..specs import LayerSpec


def drawable_modules(model: nn.Module, layers: Sequence[LayerSpec]) -> tuple[tuple[str, ...], int]:
    """Modules that can be drawn anew, the one next to the logits first, and how many parameters lie elsewhere.

    Parameters
    ----------
    model
        The network.
    layers
        Everything that is computed in it, in the order of the forward pass.
    """
    modules = dict(model.named_modules())
    names = [layer.name.partition("#")[0] for layer in reversed(layers)]
    drawable = tuple(dict.fromkeys(name for name in names if name in modules and _drawable(modules[name])))
    reached = sum(parameter.numel() for name in drawable for parameter in _own(modules[name]))
    return drawable, sum(parameter.numel() for parameter in model.parameters()) - reached


def _drawable(module: nn.Module) -> bool:
    return bool(_own(module)) and callable(getattr(module, "reset_parameters", None))


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Its parameters, and those that its weights are computed from where they are parametrised."""
    whole = is_parametrized(module) and callable(getattr(module, "reset_parameters", None))
    return list(module.parameters(recurse=whole))


def cascade(modules: Sequence[str], levels: int) -> tuple[tuple[str, ...], ...]:
    """Cut modules into growing sets: first the one next to the logits, at last all of them.

    Parameters
    ----------
    modules
        From the logits down.
    levels
        How many sets at most, evenly spaced in between; a single one holds all.
    """
    if not modules or levels < 1:
        return ()
    counts = [len(modules)] if levels == 1 else np.rint(np.linspace(1, len(modules), levels)).astype(int).tolist()
    return tuple(tuple(modules[:count]) for count in dict.fromkeys(counts))


def rank_correlation(
    first: Float[np.ndarray, "image ..."], second: Float[np.ndarray, "image ..."]
) -> Float[np.ndarray, " image"]:
    """Spearman's rank correlation of the magnitudes of two heatmaps, equals sharing their mean rank.

    Parameters
    ----------
    first
        Heatmaps of the network as it is.
    second
        Heatmaps of the altered one.

    Returns
    -------
    Float[np.ndarray, " image"]
        -1 to 1. NaN where the first is the same everywhere, and so has nothing to lose, or one is not finite; 0 where
        only the second is the same everywhere.
    """
    ranks = []
    finite = np.ones(len(first), bool)
    for heatmap in (first, second):
        flat = np.abs(heatmap.reshape(len(heatmap), -1).astype(np.float64))
        finite &= np.isfinite(flat).all(axis=1)
        rank = rankdata(np.nan_to_num(flat), axis=1) if len(flat) else flat
        ranks.append(rank - rank.mean(axis=1, keepdims=True))
    spread = [np.sqrt((rank**2).sum(axis=1)) for rank in ranks]
    product = spread[0] * spread[1]
    found = np.divide((ranks[0] * ranks[1]).sum(axis=1), product, out=np.zeros(len(first)), where=product > 0)
    return np.where(finite & (spread[0] > 0), np.clip(found, -1, 1), np.nan)
