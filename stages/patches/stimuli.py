"""How alike a filter of the first convolution and the patches are that excite it most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..contract import Ask, Subject
from ..specs import LayerSpec
from .choice import Stimulus

if TYPE_CHECKING:
    from ..network.batch import Batch

_PLAIN = (nn.Conv1d, nn.Conv2d)


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution and no class made from one, which could change its weight or its input."""
    return type(module) in _PLAIN


def cosines(
    conv: nn.Conv1d | nn.Conv2d,
    weight: Float[Tensor, " channel *kernel"],
    fed: Float[Tensor, "image in *space"],
    rows: Sequence[int],
    places: Sequence[tuple[int, ...]],
) -> Float[Tensor, " place"]:
    """Cosine of the angle between filters and the patches that they are laid on, padding included.

    Neither is centred: it is the convolution's output less its bias, over both norms.

    Parameters
    ----------
    conv
        The convolution, for its geometry.
    weight
        Its filters.
    fed
        What it is fed.
    rows
        Image of each place.
    places
        ``(channel, *position)`` in its output.

    Returns
    -------
    Tensor
        -1 to 1, float64; NaN where filter or patch is zero.
    """
    wide, image = weight.double(), fed.double()
    product = conv._conv_forward(image, wide, None)
    squares = conv._conv_forward(image.square(), torch.ones_like(wide), None)
    index = tuple(torch.tensor(column, device=fed.device) for column in (rows, *zip(*places, strict=True)))
    norm = wide.flatten(1).norm(dim=1)[index[1]] * squares[index].clamp(min=0).sqrt()
    return torch.where(norm > 0, product[index] / norm, torch.nan).cpu()


def first_convolution(subject: Subject) -> LayerSpec:
    """The first convolution of the forward pass."""
    return next(layer for layer in subject.layers if layer.kind == "conv")


def likeness(batch: Batch, layer: LayerSpec, found: Sequence[Stimulus]) -> dict[str, np.ndarray]:
    """Cosines of some of a convolution's units in the images of a batch.

    Parameters
    ----------
    batch
        The images.
    layer
        The convolution.
    found
        Rank, ``(channel, *position)`` and image of each unit; those of other images are left out.

    Returns
    -------
    dict
        ``stem`` ``(unit, 2)``, channel and rank, and ``cosine`` ``(unit,)``; NaN where the convolution is not a plain
        one.
    """
    at = {int(position): row for row, position in enumerate(batch.positions) if batch.valid[row]}
    mine = [unit for unit in found if unit[2] in at]
    stem = np.array([(place[0], rank) for rank, place, _ in mine], np.int64).reshape(-1, 2)
    name = layer.name.partition("#")[0]
    conv, weight = batch.model.get_submodule(name), batch.parameter(f"{name}.weight")
    if not mine or not is_plain(conv) or weight is None:
        return {"stem": stem, "cosine": np.full(len(mine), np.nan)}
    rows = np.array(sorted({at[image] for _, _, image in mine}))
    part, fed = batch.only(rows), f"{layer.name}.input"
    kept = part.again(part.images, Ask(keep=(fed,), logits=False)).activation(fed)
    place_of = {int(row): place for place, row in enumerate(rows)}
    chosen = [place_of[at[image]] for _, _, image in mine]
    return {"stem": stem, "cosine": cosines(conv, weight, kept, chosen, [place for _, place, _ in mine]).numpy()}  # pyright: ignore[reportArgumentType]
