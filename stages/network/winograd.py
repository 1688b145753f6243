"""3x3 convolutions of stride 1 with fewer multiplications, and their derivative by the input.

Direct convolutions on a CPU run at the speed of its multipliers, so that only fewer products make them faster
(`convaudit.stages.network.tiled`; Lavin and Gray 2016). GPUs choose such kernels by themselves, oneDNN on a CPU has
none any more. Every sum rounds differently: to about 1e-5 of the largest value instead of 1e-7, which is why this is
an option.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .tiled import STEP, Kernel, convolve, parts

#: Images for which the time is reckoned. Which convolutions are served must not hang on how many images meet in a
#: batch, since the same image would then come out rounded in another way.
_IMAGES = 16
#: What starting the work on some tiles, moving a tile in one channel, multiplying it with one output channel, and
#: reading one pair of channels of the kernel take, in products of a direct convolution; and reading its own kernel.
#: Measured on one core with 57 G products a second: right to 20 % for 16 to 512 channels on maps of 7 to 112.
_STARTED, _MOVED, _MULTIPLIED, _READ, _READ_DIRECT = 8e6, 1600, 49, 800, 200
#: Share of the direct convolution's time from which on it is left as it is.
_WORTH = 0.95
_PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONVOLUTIONS = {
    torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d
}  # fmt: skip
_PLAIN: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


class Winograd(TorchFunctionMode):
    """Computes convolutions in another way, inside the context, where that is faster.

    Served are 3x3 convolutions of stride 1 with padding of at most 1, in one group, without dilation, on a CPU, in
    single or double precision, with weights that nobody derives by, and of a shape at which fewer products take less
    time (`worth`). All others are left to PyTorch: also those under autocast, which are meant to be of shorter numbers.

    Meant for one thread per process: the sums over tiles are too short to be shared by several.

    Kernels are brought to their points once for all passes, and forgotten with their weights; they take eight times
    the weights' memory where gradients are asked for, and four times where not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kernels: Any = WeakTensorKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call."""
        del types
        kwargs = kwargs or {}
        given = _given(args, kwargs) if func is torch.conv2d else None
        return func(*args, **kwargs) if given is None else self.convolve(*given)

    def convolve(self, image: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        """Convolve, in a way that can be derived by the image, any number of times.

        Parameters
        ----------
        image
            ``(image, channel, height, width)``.
        weight
            ``(out, channel, 3, 3)``.
        bias
            One number per output channel.
        padding
            Zeros on either side, per axis.
        """
        if image.requires_grad and torch.is_grad_enabled():
            return _Convolution.apply(image, self._kernel(weight), bias, padding, False)  # pyright: ignore[reportReturnType]
        return _laid_out(convolve(image, self._kernel(weight).forward, bias, padding), image, weight)

    def _kernel(self, weight: Tensor) -> Kernel:
        # Tensors of inference mode do not tell when they are written on.
        if weight.is_inference():
            return Kernel(weight)
        version, kernel = self._kernels.get(weight, (None, None))
        if kernel is None or version != weight._version:
            kernel = Kernel(weight)
            self._kernels[weight] = (weight._version, kernel)
        return kernel


class _Convolution(torch.autograd.Function):
    """Derived by the image alone: the convolution with the kernel turned round, which is derived in the same way."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, kernel: Kernel, bias: Tensor | None, padding: tuple[int, int], turned: bool
    ) -> Tensor:
        ctx.kernel, ctx.padding, ctx.turned = kernel, padding, turned
        points = kernel.backward if turned else kernel.forward
        return _laid_out(convolve(image, points, bias, padding), image, kernel.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        across = (2 - ctx.padding[0], 2 - ctx.padding[1])
        return _Convolution.apply(gradients[0], ctx.kernel, None, across, not ctx.turned), None, None, None, None


class _Census(TorchFunctionMode):
    """Counts calls of convolutions, and those that are served."""

    def __init__(self) -> None:
        super().__init__()
        self.served = self.convolutions = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and make the call."""
        del types
        kwargs = kwargs or {}
        self.convolutions += func in _CONVOLUTIONS
        self.served += func is torch.conv2d and _given(args, kwargs) is not None
        return func(*args, **kwargs)


def census(call: Callable[[Tensor], Any], images: Tensor) -> dict[str, int]:
    """How many convolutions of a network are served.

    Parameters
    ----------
    call
        The network, without autocast.
    images
        ``(image, channel, height, width)``; how many makes no difference.

    Returns
    -------
    dict
        Calls that are ``served``, of all calls of ``convolutions``.
    """
    with _Census() as found, torch.inference_mode():
        call(images)
    return {"served": found.served, "convolutions": found.convolutions}


def _given(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int]] | None:
    """Image, weight, bias and padding of a call of `torch.conv2d` that is served; None for another one."""
    given = {**_PLAIN, **dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
    image, weight, bias, padding = given["input"], given["weight"], given["bias"], padding_of(given["padding"])
    if padding is None or not served(image, weight, padding, given["stride"], given["dilation"], given["groups"]):
        return None
    learning = weight.requires_grad or (bias is not None and bias.requires_grad)
    return None if learning and torch.is_grad_enabled() else (image, weight, bias, padding)


def _laid_out(result: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Channels last where PyTorch's convolution would have them last."""
    last = any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (image, weight))
    return result if last else result.contiguous()


def padding_of(value: Any) -> tuple[int, int] | None:
    """Zeros on either side, per axis, of a 3x3 convolution; None where they are no such numbers."""
    if isinstance(value, str):
        return {"same": (1, 1), "valid": (0, 0)}.get(value)
    pair = _pair(value)
    return pair if pair is not None and set(pair) <= {0, 1} else None


def served(image: Any, weight: Any, padding: tuple[int, int], stride: Any, dilation: Any, groups: int) -> bool:
    """Whether a convolution is of the kind that is computed on tiles, and large enough.

    Parameters
    ----------
    image, weight
        What is convolved.
    padding, stride, dilation, groups
        As of `torch.conv2d`.
    """
    plain = _pair(stride) == (1, 1) and _pair(dilation) == (1, 1) and groups == 1
    if not plain or image.ndim != 4 or tuple(weight.shape[2:]) != (3, 3) or image.shape[1] != weight.shape[1]:
        return False
    floating = image.dtype == weight.dtype and image.dtype in (torch.float32, torch.float64)
    if not floating or image.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not len(image):
        return False
    space = (image.shape[2] + 2 * padding[0] - 2, image.shape[3] + 2 * padding[1] - 2)
    return min(space) > 0 and worth(weight.shape[1], weight.shape[0], space)


def worth(channels: int, out: int, space: tuple[int, int]) -> bool:
    """Whether tiles are faster than the direct convolution, by what both were measured to take.

    Parameters
    ----------
    channels, out
        Input and output channels.
    space
        Lengths of the output.
    """
    rows, columns = (-(-length // STEP) for length in space)
    tiles, starts = _IMAGES * rows * columns, len(list(parts(_IMAGES, rows, columns, channels + out)))
    pairs = channels * out
    time = _STARTED * starts + tiles * (_MOVED * (channels + out) + _MULTIPLIED * pairs) + _READ * pairs
    direct = (9 * _IMAGES * math.prod(space) + _READ_DIRECT) * pairs
    return time <= _WORTH * direct


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else None
