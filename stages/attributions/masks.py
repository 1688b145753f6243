"""The random masks of RISE (Petsiuk, Das and Saenko 2018): drawn again from a seed, and added up with scores.

Nothing but the seed of an image and the settings is stored of a mask. Drawing, interpolating and adding up cost little,
so that reports render heatmaps on read; that imports no torch. What works on arrays works on tensors too, where said.

Papers and peers differ in how a grid becomes a mask, so a run says which it means:

``"reflect"``
    Cells are points at the centres of equal intervals, mirrored about the outermost centres: `skimage.transform.resize`
    as the authors call it.
``"clamp"``
    The same, with the outermost values going on: ``align_corners=False`` of PyTorch, and OpenCV.
``"corners"``
    The outermost cells lie on the outermost pixels: ``align_corners=True`` of PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from .scores import target_scores

Interpolation = Literal["reflect", "clamp", "corners"]
Normalisation = Literal["expected", "coverage"]

#: Masks that are drawn at once when a heatmap is rendered.
BLOCK = 1024
#: Weights of pixels that are held at once.
MOST_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class Masking:
    """How masks are made.

    Parameters
    ----------
    space
        Lengths of the spatial axes of the image, in pixels; one or two.
    grid
        Cells along every axis.
    keep
        Chance of a cell to be kept (p of the paper), between 0 and 1.
    interpolation
        How cells become pixels.
    """

    space: tuple[int, ...]
    grid: int = 7
    keep: float = 0.5
    interpolation: Interpolation = "reflect"

    @property
    def cell(self) -> tuple[int, ...]:
        """Shifts of a mask along each axis: pixels of a cell, rounded up.

        The paper rounds down (section 3.2), with which some images are larger than what is to cover them; its code
        rounds up, and so does this.
        """
        return tuple(-(-length // self.grid) for length in self.space)


def drawn(masking: Masking, seed: int, first: int, count: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Draw some of the masks of an image, the same whichever others are drawn.

    Parameters
    ----------
    masking
        How masks are made.
    seed
        Of the image.
    first, count
        Which masks.

    Returns
    -------
    tuple
        ``(mask, *grid)``, 1.0 where a cell is kept and 0.0 elsewhere; and the shift in pixels ``(mask,)`` of each axis.
    """
    axes = len(masking.space)
    cells = masking.grid**axes
    source = np.random.PCG64(seed)
    source.advance(first * (cells + axes))  # a float64 takes one step
    uniform = np.random.Generator(source).random((count, cells + axes))
    kept = (uniform[:, :cells] < masking.keep).reshape(count, *[masking.grid] * axes)
    # A product that rounds up to the length of the cell would be a shift too many.
    shifts = tuple(
        np.minimum((uniform[:, cells + axis] * length).astype(np.int64), length - 1)
        for axis, length in enumerate(masking.cell)
    )
    return kept.astype(np.float32), shifts


@lru_cache(maxsize=64)
def weights(masking: Masking, axis: int) -> Float[np.ndarray, "pixel cell"]:
    """What each cell contributes to each pixel along one axis, before the mask is cut out.

    Returns
    -------
    Float[np.ndarray, "pixel cell"]
        ``(grid + 1) * cell`` pixels, as in section 3.2 of the paper; each row adds up to 1. Read-only.
    """
    grid, long = masking.grid, (masking.grid + 1) * masking.cell[axis]
    pixel = np.arange(long)
    if masking.interpolation == "corners":
        place = pixel * ((grid - 1) / max(1, long - 1))
    else:
        place = (pixel + 0.5) * (grid / long) - 0.5
    if masking.interpolation == "reflect":
        place = np.abs(place)
        place = (grid - 1) - np.abs((grid - 1) - place)
    place = place.clip(0, grid - 1)
    found = (1 - np.abs(place[:, None] - np.arange(grid))).clip(min=0)
    found.flags.writeable = False
    return found


def interpolated(cells: Any, parts: tuple[Any, ...]) -> Any:
    """Make masks of drawn cells, for arrays as for tensors.

    Parameters
    ----------
    cells
        ``(mask, *grid)``.
    parts
        For each axis the `weights` of the pixels that each mask is cut out of, ``(mask, cell, pixel)``.

    Returns
    -------
    Array or Tensor
        ``(mask, *space)``, 0 to 1.
    """
    if len(parts) == 1:
        return (cells[:, None] @ parts[0])[:, 0]
    return parts[0].swapaxes(1, 2) @ (cells @ parts[1])


def mask_values(masking: Masking, seed: int, first: int, count: int) -> Float[np.ndarray, "mask ..."]:
    """Some of the masks of an image, as float64.

    Parameters
    ----------
    masking
        How masks are made.
    seed
        Of the image: ``mask_seed`` of the store.
    first, count
        Which masks.
    """
    cells, shifts = drawn(masking, seed, first, count)
    return interpolated(cells.astype(np.float64), tuple(_parts(masking, axis, s) for axis, s in enumerate(shifts)))


def _parts(masking: Masking, axis: int, shift: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(weights(masking, axis), masking.space[axis], axis=0)
    return windows[shift]


def normalised(weighted: Any, coverage: Any, used: int, keep: float, normalisation: Normalisation) -> Any:
    """Turn a sum of scores times masks into a heatmap, for arrays as for tensors.

    Parameters
    ----------
    weighted
        Sum over masks of score times mask.
    coverage
        Sum over masks.
    used
        How many masks there were.
    keep
        Chance of a cell to be kept.
    normalisation
        ``"expected"``: divided by what `coverage` is expected to be, ``used * keep``, as in section 3.1 of the paper;
        ``"coverage"``: divided by what it is, a mean score, which is less noisy. NaN where nothing was ever kept.
    """
    return weighted / (used * keep) if normalisation == "expected" else weighted / coverage


def added_up(masking: Masking, seed: int, scores: Float[np.ndarray, "target mask"]) -> Float[np.ndarray, "target ..."]:
    """Sum over masks of score times mask, without making a single mask.

    Masks with the same shift are added up as cells, since interpolation is linear; only the sums are interpolated. Time
    and memory for pixels do not depend on the number of masks.

    Parameters
    ----------
    masking
        How masks are made.
    seed
        Of the image.
    scores
        Of the first masks.
    """
    sizes, grids = masking.cell, [masking.grid] * len(masking.space)
    table = np.zeros((int(np.prod(sizes)), len(scores), *grids))
    for first, cells, shifts in _blocks(masking, seed, scores.shape[1]):
        part = scores[:, first : first + len(cells)].T
        np.add.at(table, np.ravel_multi_index(shifts, sizes), np.einsum("nt,n...->nt...", part, cells))
    table = table.reshape(*sizes, *table.shape[1:])
    if len(sizes) == 1:
        return _interpolated_sums(masking, 0, table)
    along_x = _interpolated_sums(masking, 1, np.moveaxis(table, 1, 0))  # (shift y, target, cell y, x)
    return _interpolated_sums(masking, 0, np.moveaxis(along_x, 2, 3)).swapaxes(1, 2)


def _blocks(masking: Masking, seed: int, n: int) -> Iterator[tuple[int, np.ndarray, tuple[np.ndarray, ...]]]:
    for first in range(0, n, BLOCK):
        yield first, *drawn(masking, seed, first, min(BLOCK, n - first))


def _interpolated_sums(masking: Masking, axis: int, table: np.ndarray) -> np.ndarray:
    """``(shift, ..., cell)`` of an axis to ``(..., pixel)``."""
    length, block = masking.space[axis], max(1, MOST_WEIGHTS // (masking.grid * masking.space[axis]))
    lines = np.moveaxis(table, 0, -2)  # (..., shift, cell)
    total = np.zeros((table[0].size // masking.grid, length))
    for first in range(0, len(table), block):
        shifts = np.arange(first, min(first + block, len(table)))
        part = lines[..., shifts, :].reshape(len(total), -1)
        total += part @ _parts(masking, axis, shifts).reshape(-1, length)
    return total.reshape(*table.shape[1:-1], length)


def render_masks(
    row: Mapping[str, np.ndarray], rendering: Mapping[str, Any], input_shape: tuple[int, ...]
) -> Float[np.ndarray, "target ..."]:
    """Render the heatmaps of one image from its scores.

    Parameters
    ----------
    row
        Arrays of one image, by path: those of `convaudit.stages.attributions.scores`, ``target``, ``used`` and
        ``mask_seed``.
    rendering
        ``notes["rendering"]`` of the leaf.
    input_shape
        ``(channel, *space)`` of what the network sees.

    Returns
    -------
    Float[np.ndarray, "target *space"]
        NaN where there is no such target, or the image was not used.
    """
    masking = masking_of(rendering, input_shape)
    used, seed = int(row["used"]), int(row["mask_seed"])
    if used < 1:
        return np.full((len(row["target"]), *masking.space), np.nan)
    scores = target_scores(row)[:, :used]
    return normalised(
        added_up(masking, seed, scores),
        added_up(masking, seed, np.ones((1, used))),
        used,
        masking.keep,
        rendering["normalisation"],
    )


def masking_of(rendering: Mapping[str, Any], input_shape: tuple[int, ...]) -> Masking:
    """How the masks of a run were made, from ``notes["rendering"]``."""
    return Masking(tuple(input_shape[1:]), int(rendering["grid"]), float(rendering["keep"]), rendering["interpolation"])
