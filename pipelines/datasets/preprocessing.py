"""From a picture or a row of numbers to what the network sees; settings alone decide, and travel with the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from ...stages.errors import ConfigError, ImageError

_UINT8_RANGE = 255.0


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes network input: mode, resize, crop, scale, normalise, in this order.

    Parameters
    ----------
    size
        Length of the shorter side in pixels, or ``(height, width)``; None leaves the size as it is.
    crop
        Side of a centre crop in pixels, or its ``(height, width)``; None keeps everything.
    mean, std
        Per channel, in units of scaled values: network input = (value - mean) / std. One number serves all channels.
    mode
        Colour mode the network was trained on.
    accept_modes
        Pillow modes that are converted to `mode`; an image in any other is a bad image. Empty: `mode` alone.
    interpolation
        Filter of the resize. Pillow's for pictures, torch's for arrays; both smooth when they shrink.
    scaling
        Number that raw values are divided by; None: 255 for 8-bit values, 1 for floats.
    max_pixels
        Images with more pixels than this, before or after the resize, are bad images.
    exif
        Whether the orientation in the file's EXIF data is applied.
    """

    size: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    mode: Literal["RGB", "L"] = "RGB"
    accept_modes: tuple[str, ...] = ()
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    scaling: float | None = None
    max_pixels: int = 50_000_000
    exif: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "crop"):
            value = getattr(self, name)
            lengths = value if isinstance(value, tuple) else (value,)
            if value is not None and min(lengths) < 1:
                raise ConfigError(f"data.preprocessing.{name}: expected at least 1 pixel, got {value}")
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(
                f"data.preprocessing: expected as many means as stds, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(
                f"data.preprocessing: expected finite means and stds above 0, got {self.mean}, {self.std}"
            )
        if self.scaling is not None and not 0 < self.scaling < math.inf:
            raise ConfigError(f"data.preprocessing.scaling: expected a number above 0, got {self.scaling}")
        if self.max_pixels < 1:
            raise ConfigError(f"data.preprocessing.max_pixels: expected at least 1, got {self.max_pixels}")

    def per_channel(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std with one number for each channel.

        Raises
        ------
        ConfigError
            When their number is neither one nor `channels`.
        """
        if len(self.mean) not in (1, channels):
            raise ConfigError(
                f"data.preprocessing.mean: expected 1 or {channels} numbers for images of {channels} channels, "
                f"got {len(self.mean)}"
            )
        repeat = channels if len(self.mean) == 1 else 1
        return self.mean * repeat, self.std * repeat


def prepare_picture(picture: Image.Image, settings: Preprocessing) -> Float32[np.ndarray, "channel y x"]:
    """Turn a decoded picture of an accepted mode into network input.

    Parameters
    ----------
    picture
        Decoded; values 0..255.
    settings
        What to do.

    Raises
    ------
    ImageError
        When the result would have too many pixels, or is smaller than the crop.
    """
    picture = picture if picture.mode == settings.mode else picture.convert(settings.mode)
    values = np.asarray(placed(picture, settings, settings.interpolation))
    values = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return normalise(values, settings)


def placed(picture: Image.Image, settings: Preprocessing, interpolation: str) -> Image.Image:
    """Resize and crop a picture, or a mask of one.

    Raises
    ------
    ImageError
        When the result would have too many pixels, or is smaller than the crop.
    """
    # Torchvision's annotations speak of tensors alone; its functions take pictures as well.
    shown: Any = picture
    if settings.size is not None:
        size = _resized(shown.height, shown.width, settings)
        shown = _transforms().functional.resize(shown, size, _transforms().InterpolationMode(interpolation))
    if settings.crop is not None:
        shown = _transforms().functional.center_crop(shown, _cropped(shown.height, shown.width, settings))
    return shown


def prepare_array(
    row: Shaped[np.ndarray, "channel ..."], settings: Preprocessing
) -> Float32[np.ndarray, "channel ..."]:
    """Turn one row of an array into network input; pictures ``(channel, y, x)`` and signals ``(channel, time)`` alike.

    Raises
    ------
    ImageError
        When values are not finite, the result would have too many pixels, or the row is smaller than the crop.
    ConfigError
        When a signal is to be resized or cropped, or whole numbers of other than 8 bits come without a scaling.
    """
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        raise ImageError("not_finite", "holds NaN or infinite values")
    if math.prod(row.shape[1:]) > settings.max_pixels:
        raise ImageError(
            "too_large", f"has {math.prod(row.shape[1:])} pixels, at most {settings.max_pixels} are allowed"
        )
    if settings.size is None and settings.crop is None:
        return normalise(row, settings)
    if row.ndim != 3:
        raise ConfigError("data.preprocessing: size and crop need images with y and x; leave them null for signals")
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(row))
    if settings.size is not None:
        height, width = tensor.shape[1:]
        size = _resized(height, width, settings)
        tensor = _transforms().functional.resize(tensor, size, _filter(settings), antialias=True)
    if settings.crop is not None:
        tensor = _transforms().functional.center_crop(tensor, _cropped(*tensor.shape[1:], settings))
    return normalise(tensor.numpy(), settings)


def normalise(values: Shaped[np.ndarray, "channel ..."], settings: Preprocessing) -> Float32[np.ndarray, "channel ..."]:
    """Scale and normalise in float32, with the same operations in the same order as torchvision.

    Numpy rather than torch, which would start threads of its own in every decoding thread.

    Raises
    ------
    ImageError
        When the result is not finite.
    ConfigError
        When whole numbers of other than 8 bits come without a scaling.
    """
    divisor = settings.scaling
    if divisor is None:
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            raise ConfigError(f"data.preprocessing.scaling: values are {values.dtype}; say what they are divided by")
        divisor = _UINT8_RANGE if values.dtype == np.uint8 else 1.0
    mean, std = settings.per_channel(len(values))
    shape = (-1,) + (1,) * (values.ndim - 1)
    result = np.ascontiguousarray(values).astype(np.float32)
    result /= np.float32(divisor)
    result -= np.asarray(mean, np.float32).reshape(shape)
    result /= np.asarray(std, np.float32).reshape(shape)
    if not np.isfinite(result).all():
        raise ImageError("not_finite", "holds values that are not finite once normalised")
    return result


def _transforms() -> Any:
    # Importing torchvision takes seconds, which every command would pay for images that are as they should be.
    from torchvision.transforms import v2

    return v2


def _filter(settings: Preprocessing) -> Any:
    return _transforms().InterpolationMode(settings.interpolation)


def _resized(height: int, width: int, settings: Preprocessing) -> list[int]:
    """Size after the resize, as torchvision computes it for a shorter side."""
    if isinstance(settings.size, tuple):
        target = settings.size
    else:
        assert settings.size is not None, "asked only where there is a size"
        short, long = sorted((height, width))
        other = int(settings.size * long / short)
        target = (settings.size, other) if height <= width else (other, settings.size)
    if math.prod(target) > settings.max_pixels:
        raise ImageError(
            "too_large",
            f"would have {target[0]}x{target[1]} pixels once resized, at most {settings.max_pixels} are allowed",
        )
    return list(target)


def _cropped(height: int, width: int, settings: Preprocessing) -> list[int]:
    """Size of the crop; torchvision would fill what is missing with black."""
    assert settings.crop is not None, "asked only where there is a crop"
    crop = settings.crop if isinstance(settings.crop, tuple) else (settings.crop, settings.crop)
    if crop[0] > height or crop[1] > width:
        raise ImageError("wrong_size", f"is {height}x{width} pixels, smaller than the crop of {crop[0]}x{crop[1]}")
    return list(crop)
