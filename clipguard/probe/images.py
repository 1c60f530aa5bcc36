"""Images as files: how they are read, and what is refused."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

RULE = {"resize_mode": ("shortest", "longest", "squash"), "interpolation": tuple(INTERPOLATIONS)}
MAX_PIXELS = 64_000_000

MAX_SIDE = 4096

BITS_PER_SAMPLE = 258
"""The TIFF tag."""

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def class_names_digest(class_names: Sequence[str]) -> str:
    """SHA-256 of the names in UTF-8, joined by newlines; the record of a probe set has the same."""
    return hashlib.sha256("\n".join(class_names).encode("utf-8", "surrogatepass")).hexdigest()


def load_image(
    file: Path | bytes, side: int, *, resize_mode: str = "shortest", interpolation: str = "bicubic"
) -> NDArray[np.float32]:
    """Read an image by the resize rule of a model.

    Turned upright by its EXIF mark, grey of 16 bits or of numbers from 0 to 1 scaled to 8 bits,
    transparency on white, then resized as open_clip does. Only formats whose decoders start no
    other program are read.

    Args:
        file: the image file, or the bytes of one.
        side: S, in pixels.
        resize_mode: `shortest` (shorter side to S, centre crop), `longest` (longer side to S,
            centred on black) or `squash` (both sides to S).
        interpolation: `bicubic` or `bilinear`.

    Returns:
        (3, S, S) float32 RGB in [0, 1].

    Raises:
        UsageError: not an image, broken, or too large when opened.
        ValueError: no such resize mode or interpolation.
    """
    if resize_mode not in RULE["resize_mode"] or interpolation not in INTERPOLATIONS:
        raise ValueError(f"no resize rule {resize_mode!r} with {interpolation!r}")
    try:
        if isinstance(file, Path) and not file.is_file():
            raise ValueError("no plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked below; text of the file is not ours
            with Image.open(
                file if isinstance(file, Path) else BytesIO(file), formats=IMAGE_FORMATS
            ) as image:
                _check_pixels(image.size)
                white = _white(image)
                upright = _on_white(_eight_bits(ImageOps.exif_transpose(image), white))
                square = _square(upright, side, resize_mode, INTERPOLATIONS[interpolation])
    except Exception as error:  # decoders raise anything on hostile bytes
        shown = safe_text(file) if isinstance(file, Path) else "the bytes"
        raise UsageError(
            f"expected an image in {shown}, got: {safe_text(error)}; replace or remove it"
        ) from error
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray(pixels)


def _white(image: Image.Image) -> float:
    """The value that is white in an image of one deep channel; 0 for every other image."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        return float(2 ** min(bits, 16) - 1)
    if image.mode == "I":
        if image.format != "PPM":
            raise ValueError("32-bit whole numbers, of which nothing says what is white")
        return 65535.0
    return float(image.mode == "F")


def _eight_bits(image: Image.Image, white: float) -> Image.Image:
    """Grey of 8 bits where there was more; Pillow would cut values off instead of scaling them."""
    if not white:
        return image
    values = np.asarray(image, dtype=np.float32)
    if not (values.min() >= 0 and values.max() <= white):  # false for NaN, too
        raise ValueError(f"values outside 0 to {white:g}, of which nothing says what is white")
    return Image.fromarray((values * np.float32(255 / white) + np.float32(0.5)).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _square(image: Image.Image, side: int, mode: str, resample: Image.Resampling) -> Image.Image:
    if mode == "squash":
        return image.resize((side, side), resample)
    if mode == "longest":
        ratio = max(image.size) / side
        size = (round(image.width / ratio), round(image.height / ratio))
    else:
        short = min(image.size)
        size = (side * image.width // short, side * image.height // short)
    _check_pixels(size)  # a 1-pixel strip would be enlarged beyond all measure
    # torchvision rounds crops so, open_clip padding; what lies outside comes out black.
    left, top = (round((n - side) / 2) if n >= side else -((side - n) // 2) for n in size)
    return image.resize(size, resample).crop((left, top, left + side, top + side))


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[0]} x {size[1]} pixels, at most {MAX_PIXELS} are read")
