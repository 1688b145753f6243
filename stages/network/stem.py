"""The derivative of a strided convolution by an input of few channels, as one dense convolution.

On a CPU a network's first convolution (7x7, stride 2, 3 channels in a ResNet) takes a sixth of a backward pass by the
input. Sorting its taps by the phase that they fall on gives a convolution of stride 1 from the gradient to all phases,
and a pixel shuffle puts these in their place (the sub-pixel convolution of Shi et al. 2016, section 2.2). The products
are the same, their sums round differently.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Above this share of input to output channels, the native derivative is as fast.
_FEW = 1 / 4


class DenseStems(TorchFunctionMode):
    """Gives strided convolutions of few channels, inside the context, the dense derivative by their input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call."""
        del types
        kwargs = kwargs or {}
        if func is not torch.conv2d or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        given = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        image, weight = given["input"], given["weight"]
        stride, padding = _pair(given.get("stride", 1)), _pair(given.get("padding", 0))
        plain = given.get("groups", 1) == 1 and _pair(given.get("dilation", 1)) == (1, 1)
        if not (plain and stride and padding and _worth(image, weight, stride)):
            return func(*args, **kwargs)
        return _Stem.apply(image, weight, given.get("bias"), stride, padding)


_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    # Padding can also be a word.
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else None


def _worth(image: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    wanted = image.requires_grad and not weight.requires_grad and image.ndim == 4
    return wanted and image.device.type == "cpu" and max(stride) > 1 and weight.shape[1] <= _FEW * weight.shape[0]


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.dtype = (stride, padding, tuple(image.shape[2:])), image.dtype
        return F.conv2d(image, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        # Under autocast the convolution was one of shorter numbers, and so is its derivative.
        found = derivative_by_input(gradients[0], weight.to(gradients[0].dtype), *ctx.geometry)
        return found.to(ctx.dtype), None, None, None, None


def derivative_by_input(
    gradient: Float[Tensor, "image out v u"],
    weight: Float[Tensor, "out channel height width"],
    stride: tuple[int, int],
    padding: tuple[int, int],
    space: tuple[int, int],
) -> Float[Tensor, "image channel y x"]:
    """Derivative of a convolution by its input.

    Parameters
    ----------
    gradient
        Derivative by the convolution's output.
    weight
        Its kernel.
    stride, padding
        Its geometry, per axis.
    space
        Lengths of its input.
    """
    axes = [_Taps(*numbers) for numbers in zip(weight.shape[2:], stride, padding, strict=True)]
    cells = [-(-length // step) for length, step in zip(space, stride, strict=True)]
    # Zeros on either side, so that each cell of the image finds all of its taps; fewer than none cuts off.
    sides = [
        (-taps.first, n + taps.count - 1 + taps.first - have)
        for taps, n, have in zip(axes, cells, gradient.shape[2:], strict=True)
    ]
    padded = F.pad(gradient, (*sides[1], *sides[0]))
    phases = F.conv2d(padded, _dense(weight, *axes))
    # Channels stay last while the phases are put in their place.
    shape = (len(gradient), *stride, weight.shape[1], *cells)
    whole = phases.reshape(shape).permute(0, 4, 1, 5, 2, 3)
    whole = whole.reshape(len(gradient), cells[0] * stride[0], cells[1] * stride[1], -1).permute(0, 3, 1, 2)
    last = gradient.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return whole[:, :, : space[0], : space[1]].contiguous(memory_format=layout)


class _Taps:
    """Along one axis: pixel ``stride * q + phase`` got tap ``phase + padding - stride * t`` from cell ``q + t``."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        self.first = -((kernel - 1 - padding) // stride)
        self.count = (stride - 1 + padding) // stride - self.first + 1
        phase, t = torch.arange(stride)[:, None], self.first + torch.arange(self.count)
        tap = phase + padding - stride * t
        # Taps that there are not stand behind the last one, where a zero is.
        self.tap = torch.where((tap >= 0) & (tap < kernel), tap, kernel)


def _dense(weight: Tensor, rows: _Taps, columns: _Taps) -> Tensor:
    """Kernel from the gradient to all phases, ``(phase * channel, out, v, u)``."""
    # (out, channel, phase y, v, phase x, u)
    sorted_taps = F.pad(weight, (0, 1, 0, 1))[:, :, rows.tap][..., columns.tap]
    dense = sorted_taps.permute(2, 4, 1, 0, 3, 5)
    return dense.reshape(-1, len(weight), rows.count, columns.count).contiguous(memory_format=torch.channels_last)
