"""The crops of single units and their way back to the input, many units in one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..contract import Ask, Gradient, ReluRule, Subject, Units
from ..receptive_fields.boxes import STATUS
from ..thumbnails.pictures import as_bytes, denormalised
from .choice import Place
from .crops import cut, fitted, outside, signed_bytes

if TYPE_CHECKING:
    from ..network.batch import Batch

_EXACT = STATUS.index("exact")


def shown(batch: Batch, found: Sequence[Place], rules: Sequence[ReluRule], subject: Subject, longest: int) -> dict:
    """Cut out and project back every unit whose image is in a batch.

    Each unit has a copy of its image to itself, so that one forward pass up to their layer, and one backward pass for
    each rule, serve as many units of a layer as a batch has images.

    Parameters
    ----------
    batch
        The images.
    found
        Units, some of which lie in these images.
    rules
        How the projections pass ReLUs.
    subject
        What is audited.
    longest
        Longest side of what is returned.

    Returns
    -------
    dict
        ``row`` ``(unit, 3)``, ``span`` ``(unit, axis, 2)``, ``field`` ``(unit,)``, ``size`` ``(unit, axis)``, ``crop``
        ``(unit, channel, *side)``, ``projection`` ``(unit, rule, channel, *side)``, and ``peak``, ``outside``
        and ``finite`` ``(unit, rule)``.
    """
    at = {int(position): row for row, position in enumerate(batch.positions) if batch.valid[row]}
    mine = sorted((place for place in found if place.image in at), key=lambda place: place.row)
    pictures = denormalised(batch.images.detach().float(), subject.mean, subject.std)
    parts = [
        _drawn(place, pictures[at[place.image]], gradients, subject, longest)
        for together in _chunks(mine, subject.batch)
        for place, gradients in zip(together, _projected(batch, together, at, rules), strict=True)
    ]
    empty = _empty(len(rules), subject, longest)
    return {key: np.stack([part[key] for part in parts]) if parts else blank for key, blank in empty.items()}


def _chunks(found: Sequence[Place], most: int) -> Iterator[list[Place]]:
    for _, of_layer in groupby(found, key=lambda place: place.layer):
        whole = list(of_layer)
        for start in range(0, len(whole), most):
            yield whole[start : start + most]


def _projected(batch: Batch, found: Sequence[Place], at: dict[int, int], rules: Sequence[ReluRule]) -> Sequence[Tensor]:
    """Gradient of each unit by its image, under each rule: ``(rule, channel, *space)`` for each unit."""
    if not rules:
        return [batch.images.new_zeros((0, *batch.images.shape[1:]))] * len(found)
    part = batch.only(np.array([at[place.image] for place in found]))
    target = Units(found[0].layer, tuple(place.unit for place in found))
    asked = tuple(Gradient(target, "input", rule) for rule in rules)
    again = part.again(part.images, Ask(gradients=asked, logits=False))
    return list(torch.stack([again.gradient(target, "input", rule) for rule in rules], 1).float())


def _drawn(place: Place, picture: Tensor, gradients: Tensor, subject: Subject, longest: int) -> dict:
    crop = fitted(cut(picture - _ground(picture, subject), place.spans), longest)
    crop = crop + _ground(crop, subject)
    projections = [signed_bytes(fitted(cut(gradient, place.spans), longest)) for gradient in gradients]
    exact = place.field == _EXACT
    values = {
        "row": np.array(place.row),
        "span": np.array(place.spans),
        "field": np.array(place.field),
        "size": np.array(crop.shape[1:]),
        "crop": _framed(crop if crop.ndim == 2 else as_bytes(crop), longest),
        "peak": np.array([peak for _, peak in projections], np.float32),
        "outside": np.array([outside(one, place.spans) if exact else np.nan for one in gradients], np.float64),
        "finite": np.array([bool(torch.isfinite(one).all()) for one in gradients], bool),
    }
    blank = np.zeros((0, *values["crop"].shape), np.uint8)
    values["projection"] = np.stack([_framed(one, longest) for one, _ in projections]) if projections else blank
    return values


def _ground(like: Tensor, subject: Subject) -> Tensor:
    """What the network's zero looks like: convolutions see it beyond the edge of the image."""
    return torch.tensor(subject.mean, dtype=like.dtype, device=like.device).view(-1, *(1,) * (like.ndim - 1))


def _framed(part: Tensor, longest: int) -> np.ndarray:
    """Put a part into the corner of an array whose sides are all `longest`."""
    values = part.cpu().numpy()
    whole = np.zeros((len(values), *(longest,) * (values.ndim - 1)), values.dtype)
    whole[tuple(slice(length) for length in values.shape)] = values
    return whole


def _empty(rules: int, subject: Subject, longest: int) -> dict[str, np.ndarray]:
    channel, *space = subject.input_shape
    side = (longest,) * len(space)
    return {
        "row": np.zeros((0, 3), np.int64),
        "span": np.zeros((0, len(space), 2), np.int64),
        "field": np.zeros(0, np.int64),
        "size": np.zeros((0, len(space)), np.int64),
        "crop": np.zeros((0, channel, *side), np.float32 if len(space) == 1 else np.uint8),
        "projection": np.zeros((0, rules, channel, *side), np.uint8),
        "peak": np.zeros((0, rules), np.float32),
        "outside": np.zeros((0, rules)),
        "finite": np.zeros((0, rules), bool),
    }
