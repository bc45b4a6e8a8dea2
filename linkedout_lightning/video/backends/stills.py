"""Still images with Pillow: covers and thumbnails, as videos of one frame."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.files import require_regular_file
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings

# Only these parsers may look at the bytes, whatever the file's name says: Pillow has dozens, one of
# which (EPS) starts a program.
FORMATS = tuple(
    plugin.format
    for plugin in (
        BmpImagePlugin.BmpImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
# What Pillow raises for damage, apart from the errors of its own.
BROKEN = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, OverflowError),
    *(struct.error, zlib.error),
)
ORIENTATION_TAG = 0x0112
# EXIF's orientation by value: what brings the stored image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = (255, 255, 255)


def decode(path: str, settings: DecodeSettings) -> Frames:
    """Decode a JPEG, PNG, WebP or BMP image.

    Upright by its EXIF orientation, transparency flattened onto white, samples of more than 8 bits
    cut to their upper 8, CMYK and palettes as RGB; colour profiles are not applied. Resized as
    videos are: bicubic, anti-aliased.

    Returns:
        One frame, shown for one second from 0.

    Raises:
        VideoDecodeError: If the image is damaged, animated or too large, with the reason.
    """
    require_regular_file(path)
    # Our limit of pixels holds before anything is decoded; Pillow's own would warn and go on.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=FORMATS) as image:
            _require_allowed(path, image, settings)
            image.load()
            data = _pixels(_upright(image), path, settings)
    except (VideoDecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG, WebP or BMP image, or its header is damaged"
        raise VideoDecodeError(path, reason) from None
    except BROKEN as error:
        raise VideoDecodeError(path, f"damaged image: {_brief(error)}") from None
    return Frames(data=data[None], timestamps=np.zeros(1), fps=1.0, duration=1.0, backend="pillow")


def _require_allowed(path: str, image: Any, settings: DecodeSettings) -> None:
    _require_pixels(path, image.width, image.height, settings)
    # MPO is the JPEG of many phones, with a second picture behind the one that is meant.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise VideoDecodeError(path, "an animation, not a still image")


def _require_pixels(path: str, width: int, height: int, settings: DecodeSettings) -> None:
    limit = settings.max_pixels
    if width * height > limit:
        raise VideoDecodeError(path, f"{width}x{height} is more than the limit of {limit} pixels")


def _upright(image: Any) -> Any:
    # Read after the pixels: in PNG the tag may come behind them.
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG))
    except BROKEN:
        turn = None  # a viewer shows an image with damaged metadata as it is stored
    return image if turn is None else image.transpose(turn)


def _pixels(image: Any, path: str, settings: DecodeSettings) -> NDArray[np.uint8]:
    height, width = settings.target_size(image.height, image.width)
    _require_pixels(path, width, height, settings)
    image = _rgb(image)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(image, dtype=np.uint8)


def _rgb(image: Any) -> Any:
    if image.mode.startswith("I"):  # "I;16", or "I" in older Pillow
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _eight_bits(image: Any) -> Any:
    """Upper 8 of 16 bits, as Pillow takes them from RGB; converting grey ones would clip them."""
    grey = np.asarray(image)  # (height, width) uint16
    upper = Image.fromarray((grey >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        upper.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    return upper


def _brief(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]
