"""Where the cells of a layer lie in the image: the middles of their receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import StageError
from .fields import NOT_FOLLOWED, map_fields


@dataclass(frozen=True)
class Geometry:
    """Where the cells of a layer lie: the receptive field of cell `u` is centred at ``centre + u * stride``.

    Parameters
    ----------
    stride
        Input pixels from one cell to the next, per spatial axis.
    centre
        Centre of cell 0 in input pixels, per spatial axis; 0 is the middle of the first pixel.
    """

    stride: tuple[float, ...]
    centre: tuple[float, ...]

    def note(self) -> dict[str, list[float]]:
        """As it is noted in the store."""
        return {"stride": list(self.stride), "centre": list(self.centre)}


def map_geometry(model: nn.Module, layers: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, Geometry]:
    """Find where the cells of some layers lie in the image.

    Strides and centres of the receptive fields (see `convaudit.stages.network.fields`); where paths meet, theirs have
    to agree. A value that has been pooled over the whole image and is multiplied back onto a map (squeeze and
    excitation) does not move the map's cells.

    Parameters
    ----------
    model
        In evaluation mode.
    layers
        Layer names.
    input_shape
        ``(channel, *space)`` of the network's input.

    Returns
    -------
    dict
        Geometry by layer.

    Raises
    ------
    StageError
        When there is no single answer, with the reason: the network cannot be followed, branches disagree, or the
        layer has no spatial axes.
    """
    found = {}
    for layer, seen in map_fields(model, layers, input_shape).items():
        field, place = seen.field, seen.field.placed_at()
        reason = field.unknown or field.clash
        if reason is not None and reason.startswith(NOT_FOLLOWED):
            raise StageError(
                f"geometry of {', '.join(layers)}: {reason}, so that nobody can say where the cells lie; choose a "
                "method at input resolution"
            )
        if reason is not None or place is None:
            raise StageError(f"geometry of {layer}: {reason or 'space is pooled away'}; choose another layer")
        found[layer] = Geometry(*place)
    return found
