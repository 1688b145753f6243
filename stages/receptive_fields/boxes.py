"""Which pixels a unit sees, from what `receptive_fields/theoretical` notes; numpy and plain data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: What can be said of a receptive field; the position is the code stored in ``receptive_fields/theoretical/status``.
STATUS = ("exact", "whole", "unknown")

#: Pixels along one axis, from the first to the one after the last.
Span = tuple[int, int]
#: One entry of ``notes["groups"][layer]``: channels of a layer that share a receptive field.
Group = Mapping[str, Any]


def group_of(groups: Sequence[Group], channel: int) -> Group:
    """The group of a layer that a channel belongs to.

    Parameters
    ----------
    groups
        ``notes["groups"][layer]``.
    channel
        Which channel of the layer.

    Raises
    ------
    KeyError
        When no group has that channel.
    """
    for group in groups:
        if any(channel in range(*run) for run in group["channels"]):
            return group
    raise KeyError(f"channel {channel} is in none of the {len(groups)} groups of the layer")


def groups_of_channels(groups: Sequence[Group], n_channel: int) -> np.ndarray:
    """Place in `groups` of the group of each channel ``(channel,)``; -1 for none."""
    found = np.full(n_channel, -1, np.int64)
    for place, group in enumerate(groups):
        for run in group["channels"]:
            found[slice(*run)] = place
    return found


def reach(group: Group, position: Sequence[int]) -> tuple[Span, ...] | None:
    """The receptive field of a unit as if the image had no end.

    Parameters
    ----------
    group
        The group of the unit's channel.
    position
        Of the unit along the spatial axes of its layer.

    Returns
    -------
    tuple or None
        First pixel and the one after the last, per axis; may lie outside the image. Of a field that is the whole
        image, the part along the paths that keep its place (around squeeze and excitation). None where nobody can
        say where the unit lies.
    """
    if any(value is None for value in (*group["stride"], *group["centre"], *group["local"])):
        return None
    return tuple(_span(group, axis, cell) for axis, cell in enumerate(position))


def _span(group: Group, axis: int, cell: int) -> Span:
    stride = group["stride"][axis]
    phases = group.get("phases")
    if phases and len(phases[axis]) > 1:
        turn, phase = divmod(int(cell), len(phases[axis]))
        shift = round(stride * len(phases[axis])) * turn
        first, last = phases[axis][phase]
        return first + shift, last + shift + 1
    size = group["local"][axis]
    start = round(group["centre"][axis] + int(cell) * stride - (size - 1) / 2)
    return start, start + round(size)


def box(group: Group, position: Sequence[int], input_shape: Sequence[int], *, local: bool = False) -> tuple[Span, ...]:
    """The pixels of the image that can change a unit.

    Parameters
    ----------
    group, position
        As in `reach`.
    input_shape
        ``(channel, *space)`` of the network's input.
    local
        Whether to leave out, where it can be told apart, what reaches every unit from the whole image (squeeze and
        excitation).

    Returns
    -------
    tuple
        First pixel and the one after the last, per axis, inside the image; the whole image where the field is whole
        or unknown.
    """
    space = tuple(input_shape[1:])
    placed = group["status"] == "exact" or (group["status"] == "whole" and local)
    spans = reach(group, position) if placed else None
    if spans is None:
        return tuple((0, length) for length in space)
    # Pixels at the border that no window holds, since the next one would reach beyond the map, are not seen.
    ends = group.get("ends") or [(0, length) for length in space]
    return tuple(
        (min(max(start, low), high), min(max(stop, low), high))
        for (start, stop), (low, high) in zip(spans, ends, strict=True)
    )
