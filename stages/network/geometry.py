"""Where the cells of a layer lie in the image: the middles of their receptive fields."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StageError
from .fields import NOT_FOLLOWED, LayerField


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


def geometry_of(layer: str, seen: LayerField) -> Geometry:
    """Where the cells of a layer lie, from what they see.

    Where paths meet, theirs have to agree. A value that has been pooled over the whole image and is multiplied back
    onto a map (squeeze and excitation) does not move the map's cells.

    Parameters
    ----------
    layer
        Its name, for the message.
    seen
        Found by `convaudit.stages.network.fields.map_fields`.

    Raises
    ------
    StageError
        When there is no single answer, with the reason: the network cannot be followed, branches disagree, or the
        layer has no spatial axes.
    """
    field, place = seen.field, seen.field.placed_at()
    reason = field.unknown or field.clash
    if reason is not None and reason.startswith(NOT_FOLLOWED):
        raise StageError(
            f"geometry of {layer}: {reason}, so that nobody can say where the cells lie; choose a method at input "
            "resolution"
        )
    if reason is not None or place is None:
        raise StageError(f"geometry of {layer}: {reason or 'space is pooled away'}; choose another layer")
    return Geometry(*place)
