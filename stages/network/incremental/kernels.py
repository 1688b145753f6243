"""Convolutions on pieces, by the fastest kernel that there is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import Node
from ..operations import arguments
from ..tiled import Kernel, convolve
from ..winograd import padding_of, served

#: oneDNN's convolution with a ReLU behind it and weights laid out beforehand, as PyTorch's own compiler calls it; None
#: where this PyTorch has none.
_FUSED: Any = getattr(getattr(torch.ops, "mkldnn", None), "_convolution_pointwise", None)
_LAY_OUT: Any = getattr(getattr(torch.ops, "mkldnn", None), "_reorder_convolution_weight", None)


class Convolution:
    """A convolution of the network, ready for pieces with any padding.

    Parameters
    ----------
    node
        The convolution; not a transposed one.
    rectified
        Whether a ReLU follows.
    tiled
        Whether it is computed with fewer multiplications where that is faster; see `Winograd`.
    """

    def __init__(self, node: Node, rectified: bool, tiled: bool = False) -> None:
        given = arguments(node)
        self.op, self.rectified, self.tiled = node.op, rectified, tiled
        self.weight, self.bias = given["weight"], given["bias"]
        self.stride, self.padding, self.dilation = (
            list(_per_axis(given[name], self.weight.ndim - 2)) for name in ("stride", "padding", "dilation")
        )
        self.groups = given["groups"]
        self.packed: Tensor | None = None
        self.kernel = Kernel(self.weight)

    def __call__(self, piece: Tensor, padded: bool) -> Tensor:
        """Convolve.

        Parameters
        ----------
        piece
            ``(window, channel, *space)``.
        padded
            With the network's own padding, or with none.
        """
        none = [0] * len(self.stride)
        padding = self.padding if padded else none
        around = padding_of(padding) if self.tiled else None
        if around is not None and served(piece, self.weight, around, self.stride, self.dilation, self.groups):
            found = convolve(piece, self.kernel.forward, self.bias, around)
            return found.relu_() if self.rectified else found
        if not self._fusible(piece):
            found = self.op(
                piece, self.weight, self.bias, self.stride, padding, self.dilation, False, none, self.groups
            )
            return found.relu_() if self.rectified else found
        piece = piece.contiguous(memory_format=torch.channels_last)
        if self.packed is None:
            self.packed = self._packed(piece)
        after: tuple[Any, ...] = ("relu" if self.rectified else "none", [], "")
        return _FUSED(piece, self.packed, self.bias, padding, self.stride, self.dilation, self.groups, *after)

    def _fusible(self, piece: Tensor) -> bool:
        plain = piece.device.type == "cpu" and piece.dtype == self.weight.dtype == torch.float32 and piece.ndim == 4
        return plain and None not in (_FUSED, _LAY_OUT) and torch.backends.mkldnn.is_available()

    def _packed(self, piece: Tensor) -> Tensor:
        none = [0] * len(self.stride)
        return _LAY_OUT(self.weight.detach(), none, self.stride, self.dilation, self.groups, list(piece.shape))


def _per_axis(value: Any, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values
