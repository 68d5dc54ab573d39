"""Photographs from files, safely: whatever a file holds becomes uint8 RGB or an error of one line."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from edit_robust.core.errors import UserError
from edit_robust.core.images import Pixels

Mask = Bool[np.ndarray, "height width"]

MAX_PIXELS = 200_000_000
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def _open(source: BytesIO | Path, where: str) -> Image.Image:
    """A decoded image, turned upright as its EXIF entry says. Raises UserError."""
    try:
        image = Image.open(source)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{width} x {height} pixels")
        image.load()
        return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = MAX_PIXELS // 1_000_000
        raise UserError(f"{where} is too large (more than {limit} million pixels); make it smaller") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        empty = isinstance(source, Path) and source.is_file() and source.stat().st_size == 0
        reason = "the file is empty" if empty else " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError) and not empty:
            reason = "no known image format"
        raise UserError(f"{where} cannot be read as an image ({reason})") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Images of 16 or 32 bits a pixel as 8-bit grey; others as they are."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        scale = 255.0 if top <= 1.0 else 1.0
    else:  # PNG's 16-bit greys come as "I;16" or "I"
        scale = 255.0 / 65535.0 if image.mode.startswith("I;") or top > 255.0 else 1.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


def decode_image(source: BytesIO | Path, where: str) -> Pixels:
    """Any image as RGB, [height, width, 3]; transparent parts are white. `where` names it in errors.

    Raises UserError for what is no image, is damaged, is less than 2 pixels wide or high, or has more than
    `MAX_PIXELS` pixels.
    """
    image = _eight_bit(_open(source, where))
    if min(image.size) < 2:
        raise UserError(f"{where} is {image.width} x {image.height} pixels; at least 2 x 2 are needed")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_image(path: str | Path) -> Pixels:
    """The image of a file as uint8 RGB, [height, width, 3] (see `decode_image`)."""
    return decode_image(Path(path), str(path))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) as `read_image` will find it, from the file's header alone. Raises UserError."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except Exception:
        _open(Path(path), str(path))  # says why
        raise


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> Mask:
    """The mask of an image file: True where it is brighter than the middle of its range, [height, width].

    Raises UserError where `size` (height, width) is another one, and for a mask without any True pixel.
    """
    image = _eight_bit(_open(Path(path), str(path)))
    grey = np.array(image.convert("L"), dtype=np.uint8)
    mask = as_mask(np.array(image, dtype=np.uint8) if image.mode == "P" and grey.max(initial=0) == 0 else grey)
    check_mask(mask, size, str(path))
    return mask


def as_mask(values: np.ndarray) -> Mask:
    """True above the middle between the smallest and the largest value; values that are all the same: above zero."""
    low, high = float(values.min()), float(values.max())
    return np.asarray(values > ((low + high) / 2 if low < high else 0.0), dtype=bool)


def check_mask(mask: Mask, size: tuple[int, int] | None, where: str) -> None:
    """UserError for a mask of another size than its image's, and for one that marks nothing."""
    if size is not None and mask.shape != tuple(size):
        raise UserError(
            f"{where}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}; "
            "they must have the same size"
        )
    if not mask.any():
        raise UserError(f"{where}: the mask is zero everywhere; it must mark the part of the image that changes")
