"""From the bytes of an image file to network input, or to the reason why not."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageOps, UnidentifiedImageError

from ...stages.errors import ImageError
from .preprocessing import Preprocessing, prepare_picture

_ADDRESS = re.compile(r"\s*<[^>]*>")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises
    ------
    ImageError
        When there is no such file, it cannot be read, or it is empty.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing", "the file does not exist") from None
    except OSError as error:
        raise ImageError("missing", f"the file cannot be read: {error.strerror}") from None
    if not content:
        raise ImageError("empty", "the file has 0 bytes")
    return content


def decode(content: bytes, settings: Preprocessing) -> Float32[np.ndarray, "channel y x"]:
    """Decode an image file and prepare it for the network.

    Parameters
    ----------
    content
        Bytes of the file.
    settings
        How it becomes network input.

    Raises
    ------
    ImageError
        With code ``empty``, ``truncated``, ``undecodable``, ``wrong_mode``, ``wrong_size``, ``too_large`` or
        ``not_finite``.
    """
    if not content:
        raise ImageError("empty", "the file has 0 bytes")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            check_header(picture, settings)
            picture.load()
            return prepare_picture(ImageOps.exif_transpose(picture) if settings.exif else picture, settings)
    except ImageError:
        raise
    except Exception as error:
        raise classified(error) from None


def check_header(picture: Image.Image, settings: Preprocessing) -> None:
    """Refuse what the header alone rules out, before any pixel is decoded.

    Raises
    ------
    ImageError
        When the image is too large, animated, or in a mode that is not accepted.
    """
    pixels = picture.width * picture.height
    if pixels > settings.max_pixels:
        raise ImageError(
            "too_large", f"is {picture.height}x{picture.width} pixels, at most {settings.max_pixels} are allowed"
        )
    accepted = settings.accept_modes or (settings.mode,)
    if picture.mode not in accepted:
        raise ImageError("wrong_mode", f"has mode {picture.mode}, expected {' or '.join(accepted)}")
    # Phones wrap a still photograph and its preview into MPO, which calls itself animated.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise ImageError("wrong_mode", f"has {getattr(picture, 'n_frames', 'several')} frames, expected a still image")


def classified(error: Exception) -> ImageError:
    """Say of what Pillow raised whether the file is too large, cut short, or no image at all."""
    # Pillow names the buffer it read from, whose address differs from run to run.
    text = _ADDRESS.sub("", " ".join(str(error).split()))[:200]
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return ImageError("too_large", text or "needs more memory than there is")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("undecodable", "is not an image of a known format")
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return ImageError("truncated", text or "ends too early")
    return ImageError("undecodable", f"{type(error).__name__}: {text}" if text else type(error).__name__)
