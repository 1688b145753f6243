"""What a target stands for in one forward pass: a class of each image, or a unit inside the network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..contract import Target, Unit, Units
from ..errors import StageError


def target_class(target: Target, logits: Tensor, labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Class position that a target stands for.

    Parameters
    ----------
    target
        What is derived.
    logits
        ``(image, class)``.
    labels
        Class position of each image; -1 where it has none.
    valid
        Whether an image can be used.

    Returns
    -------
    ndarray
        ``(image,)``; -1 where there is none: a unit, a bad image, logits that are not finite, no label, and for
        ``"contrast"``, which stands for the predicted class, every image that is right.

    Raises
    ------
    StageError
        When there is no such target.
    """
    n_class = logits.shape[1]
    if isinstance(target, (Unit, Units)):
        return np.full(len(logits), -1)
    if target == "label":
        return np.where(valid, labels, -1)
    if isinstance(target, int):
        if not 0 <= target < n_class:
            raise StageError(f"gradient target: expected a class from 0 to {n_class - 1}, got {target}")
        return np.where(valid, target, -1)
    rank = _rank(target, n_class)
    values = logits.detach().float().cpu().numpy()
    usable = valid & np.isfinite(values).all(1)
    # A stable order, so that the first of several equal logits comes first.
    found = np.argsort(-np.where(usable[:, None], values, 0.0), axis=1, kind="stable")[:, rank]
    if target == "contrast":
        usable = usable & (labels >= 0) & (labels != found)
    return np.where(usable, found, -1)


def _rank(target: Target, n_class: int) -> int:
    if target in ("predicted", "contrast"):
        return 0
    kind, _, rank = str(target).partition(":")
    if isinstance(target, str) and kind == "rank" and rank.isdigit() and int(rank) < n_class:
        return int(rank)
    raise StageError(
        f"gradient target: expected 'predicted', 'label', 'contrast', 'rank:0' to 'rank:{n_class - 1}' or a class "
        f"from 0 to {n_class - 1}, got {target!r}"
    )


def unit_seed(value: Tensor, unit: Unit) -> Tensor:
    """Mark one unit of each image: 1 there, 0 elsewhere.

    Parameters
    ----------
    value
        Output of the unit's layer ``(image, channel, *space)``.
    unit
        Which one.

    Raises
    ------
    StageError
        When the layer has no such unit.
    """
    shape = tuple(value.shape[1:])
    given = (unit.channel, *(unit.position or ()))
    spatial = unit.position is not None
    if (spatial and len(given) != len(shape)) or any(not 0 <= i < n for i, n in zip(given, shape, strict=False)):
        raise StageError(f"unit of {unit.layer}: expected a place in (channel, *space) {shape}, got {given}")
    seed = torch.zeros_like(value)
    if spatial or len(shape) == 1:
        seed[(slice(None), *given)] = 1
        return seed
    plane = value[:, unit.channel].flatten(1)
    # The first maximum: argmax of torch takes any of several.
    first = (plane == plane.amax(1, keepdim=True)).to(torch.uint8).argmax(1)
    seed[:, unit.channel] = torch.nn.functional.one_hot(first, plane.shape[1]).to(seed).view_as(seed[:, unit.channel])
    return seed


def units_seed(value: Tensor, units: Units) -> Tensor:
    """Mark another unit in each image: 1 there, 0 elsewhere.

    Parameters
    ----------
    value
        Output of the units' layer ``(image, channel, *space)``.
    units
        Which ones.

    Raises
    ------
    StageError
        When there is not one for each image, or the layer has no such unit.
    """
    if len(units.places) != len(value):
        raise StageError(
            f"units of {units.layer}: expected one for each of {len(value)} images, got {len(units.places)}"
        )
    shape = tuple(value.shape[1:])
    for place in units.places:
        if len(place) != len(shape) or any(not 0 <= i < n for i, n in zip(place, shape, strict=True)):
            raise StageError(f"unit of {units.layer}: expected a place in (channel, *space) {shape}, got {place}")
    seed = torch.zeros_like(value)
    columns = torch.tensor(units.places, device=value.device).unbind(1)
    seed[(torch.arange(len(value), device=value.device), *columns)] = 1
    return seed
