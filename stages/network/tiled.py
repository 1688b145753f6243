"""A 3x3 convolution of stride 1 on tiles of 4x4 outputs, with 36 products in place of 144.

F(4x4, 3x3) of Lavin and Gray 2016, section 4.3: image tiles of 6x6, which overlap by two, and the kernel are brought
to 36 points each, multiplied there, and brought back. At each point the products over channels are one matrix product
for all tiles, and there are 36 of them. The transforms only add, so that they are made one axis after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

#: Outputs along an axis of a tile, and inputs that they look at.
STEP, REACH = 4, 6
#: Values at one point of the tiles that are computed together, channels in and out, and how many tiles these are at
#: least: more fall out of the second cache, fewer do not fill the matrix products. Measured on a cache of 1 MiB.
_TOGETHER, _TILES = 25600, 128
#: Rows of points whose products are made together, for the same reason.
_ROWS = 3
#: What a kernel of three taps is at the points 0, 1, -1, 2, -2 and infinity.
_POINTS = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
) / torch.tensor([[24.0]], dtype=torch.float64)


class Kernel:
    """A kernel at its 36 points, for the convolution and for its derivative by the input.

    Parameters
    ----------
    weight
        ``(out, channel, 3, 3)``; must not change.
    """

    def __init__(self, weight: Float[Tensor, "out channel 3 3"]) -> None:
        self.weight = weight.detach()

    @cached_property
    def forward(self) -> Float[Tensor, "36 channel out"]:
        """From input to output channels."""
        return _at_points(self.weight)

    @cached_property
    def backward(self) -> Float[Tensor, "36 out channel"]:
        """From output to input channels: the taps are met the other way round."""
        return _at_points(self.weight.flip(2, 3).transpose(0, 1))


def _at_points(weight: Tensor) -> Tensor:
    out, channel = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channel * out)
    points = torch.kron(_POINTS, _POINTS).to(weight) @ taps
    return points.view(REACH * REACH, channel, out)


def convolve(
    image: Float[Tensor, "image channel height width"],
    kernel: Float[Tensor, "36 channel out"],
    bias: Float[Tensor, " out"] | None = None,
    padding: tuple[int, int] = (0, 0),
) -> Float[Tensor, "image out y x"]:
    """Convolve images with a kernel that is at its points.

    Parameters
    ----------
    image
        The images, in any memory format.
    kernel
        `Kernel.forward` or `Kernel.backward`.
    bias
        Added to each output channel.
    padding
        Zeros on either side, per axis.

    Returns
    -------
    Tensor
        Channels last. Equal to the direct convolution up to about 1e-5 of the largest value in single precision.
    """
    last = image.permute(0, 2, 3, 1)
    space = tuple(length + 2 * pad - 2 for length, pad in zip(image.shape[2:], padding, strict=True))
    # Not a view of something else: what follows may overwrite it, which autograd forbids for views.
    shape = (len(image), kernel.shape[2], *space)
    found = torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    out = found.permute(0, 2, 3, 1)
    works: dict[tuple[int, int], _Work] = {}
    for images, rows in parts(len(image), -(-space[0] // STEP), -(-space[1] // STEP), sum(kernel.shape[1:])):
        size = (images.stop - images.start, rows.stop - rows.start)
        if size not in works:
            works[size] = _Work(last, size, -(-space[1] // STEP), kernel)
        work = works[size]
        work.load(last[images], STEP * rows.start - padding[0], padding[1])
        work.transform(bias)
        work.store(out[images, STEP * rows.start : STEP * rows.stop])
    return found


def parts(n: int, rows: int, columns: int, channels: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles that are computed together: some images whole, or one image in bands.

    Parameters
    ----------
    n
        Images.
    rows, columns
        Tiles of an image.
    channels
        In and out.
    """
    together = max(_TILES, _TOGETHER // channels)
    images, band = max(1, together // (rows * columns)), min(rows, max(1, together // columns))
    for first in range(0, n, images):
        for row in range(0, rows, band):
            yield slice(first, min(n, first + images)), slice(row, min(rows, row + band))


class _Work:
    """Memory for some tiles on their way, and the views of it that each step takes."""

    def __init__(self, like: Tensor, size: tuple[int, int], columns: int, kernel: Tensor) -> None:
        (n, rows), (_, channel, out), empty = size, kernel.shape, like.new_empty
        self.kernel, self.shape = kernel, (n, rows, STEP, columns, STEP, out)
        self.padded = like.new_zeros(n, STEP * rows + 2, STEP * columns + 2, channel)
        self.tall = empty(REACH, n, rows, STEP * columns + 2, channel)
        self.points = empty(_ROWS, REACH, n, rows, columns, channel)
        self.products = empty(_ROWS, REACH, n, rows, columns, out)
        self.narrow = empty(REACH, n, rows, columns, STEP, out)
        self.whole = empty(self.shape)
        self.pair_tall, self.pair_points = empty(2, *self.tall.shape[1:]), empty(2, *_swapped(self.points).shape[1:])
        self.pairs_products = empty(2, 2, *_swapped(self.products).shape[1:])
        self.pairs_narrow = empty(2, 2, *self.narrow.shape[1:])
        # Tiles overlap: element (i, ..., t) of a view lies at 4 t + i.
        s, t = self.padded.stride(), self.tall.stride()
        self.by_row = self.padded.as_strided((REACH, *self.tall.shape[1:]), (s[1], s[0], STEP * s[1], s[2], s[3]))
        shape = (REACH, REACH, n, rows, columns, channel)
        self.by_column = self.tall.as_strided(shape, (t[3], t[0], t[1], t[2], STEP * t[3], t[4]))

    def load(self, image: Tensor, top: int, left: int) -> None:
        """Take the rows from `top` on of images ``(image, y, x, channel)``, with zeros around."""
        height, bottom = image.shape[1], top + self.padded.shape[1]
        first, last = max(top, 0), min(bottom, height)
        self.padded[:, : first - top].zero_()
        self.padded[:, max(last, first) - top :].zero_()
        self.padded[:, first - top : last - top, left : left + image.shape[2]].copy_(image[:, first:last])

    def transform(self, bias: Tensor | None) -> None:
        """Bring the tiles to their points, multiply there, and bring them back but for the last axis."""
        _to_points(self.by_row, self.tall, self.pair_tall)
        of_row = (_ROWS * REACH, -1)
        for row in range(0, REACH, _ROWS):
            rows = slice(row, row + _ROWS)
            _to_points(self.by_column[:, rows], _swapped(self.points), self.pair_points)
            kernel = self.kernel[REACH * row : REACH * rows.stop]
            points, products = (some.view(*of_row, some.shape[-1]) for some in (self.points, self.products))
            torch.bmm(points, kernel, out=products)
            if bias is not None and row <= 1 < rows.stop:
                # What is at point (1, 1) goes into all outputs of its tile, once.
                self.products[1 - row, 1].add_(bias)
            _from_points(_swapped(self.products), self.narrow[rows].movedim(-2, 0), self.pairs_products)

    def store(self, out: Tensor) -> None:
        """Bring the last axis back, and write ``(image, y, x, out)``, where tiles may reach over the border."""
        exact = out.shape[1:3] == (self.shape[1] * STEP, self.shape[3] * STEP)
        whole = out.view(self.shape) if exact else self.whole
        _from_points(self.narrow, whole.movedim(2, 0), self.pairs_narrow)
        if not exact:
            flat = whole.view(self.shape[0], self.shape[1] * STEP, self.shape[3] * STEP, -1)
            out.copy_(flat[:, : out.shape[1], : out.shape[2]])


def _swapped(value: Tensor) -> Tensor:
    return value.transpose(0, 1)


def _to_points(d: Tensor, out: Tensor, pair: Tensor) -> None:
    """Bring six inputs to six points along the first axis; `pair` is scratch."""
    ends = out[:: REACH - 1]
    torch.add(d[4:6], d[2:4], alpha=-5, out=ends)
    ends.add_(d[0:2], alpha=4)
    odd, even = pair[0], pair[1]
    torch.add(d[3:5], d[1:3], alpha=-4, out=pair)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[3:5], d[1:3], out=pair)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])


def _from_points(m: Tensor, out: Tensor, pairs: Tensor) -> None:
    """Bring six points to four outputs along the first axis, overwriting the points; `pairs` is scratch."""
    total, difference = pairs[0], pairs[1]
    torch.add(m[1:5:2], m[2:5:2], out=total)
    torch.sub(m[1:5:2], m[2:5:2], out=difference)
    torch.add(m[0].add_(total[0]), total[1], out=out[0])
    torch.add(difference[0], difference[1], alpha=2, out=out[1])
    torch.add(total[0], total[1], alpha=4, out=out[2])
    torch.add(m[5].add_(difference[0]), difference[1], alpha=8, out=out[3])
