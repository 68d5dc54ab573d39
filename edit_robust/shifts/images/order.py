"""The two orders in which images are prepared: as the released ImageNet-C was made, and without its JPEG files.

The released images were resized (short side 256, bilinear), cropped (middle 224), corrupted and saved as JPEG files of
quality 85, for networks of any size. A network sees that second compression: results of the two orders differ by points
of accuracy, and every result says which order it is.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from edit_robust.core.errors import UserError, nearest
from edit_robust.shifts.images.benchmark import as_pixels, corrupt
from edit_robust.shifts.images.types import Pixels

Order = Literal["direct", "released"]
ORDERS: tuple[Order, ...] = ("direct", "released")
#: How the released images were made.
RESIZE, CROP, QUALITY = 256, 224, 85


def resize_crop(image: Any, resize: int, crop: int) -> Pixels:
    """uint8 [crop, crop, 3]: short side to `resize` pixels (Pillow's bilinear filter), then the middle.

    Equal to torchvision's Resize(resize) and CenterCrop(crop) on a PIL image. Raises UserError where crop > resize.
    """
    if not 0 < crop <= resize:
        raise UserError(f"a crop of {crop} pixels does not fit in images resized to {resize}")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(_rgb(image))
    picture = picture.convert("RGB")
    width, height = picture.size
    if min(width, height) != resize:
        short = min(width, height)
        size = (int(resize * width / short), int(resize * height / short))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        width, height = picture.size
    top, left = round((height - crop) / 2.0), round((width - crop) / 2.0)
    return np.array(picture.crop((left, top, left + crop, top + crop)))


def _rgb(image: Any) -> np.ndarray:
    """uint8 [height, width, 3]; images of any size, as they are about to be resized."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise UserError(f"an image is expected as uint8 [height, width, 3], not as {array.dtype} {list(array.shape)}")
    return np.broadcast_to(array if array.ndim == 3 else array[..., None], (*array.shape[:2], 3)).copy()


def jpeg_round_trip(image: Pixels, quality: int = QUALITY) -> Pixels:
    """The image as it comes back from a JPEG file."""
    from edit_robust.shifts.images.digital import jpeg

    return jpeg(as_pixels(image), quality)


def fit(image: Pixels, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A square image at a network's own size: resized whole (Pillow's bicubic filter) where it has another one."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def direct(image: Any, name: str, severity: int, seed: int, resize: int = RESIZE, crop: int = CROP) -> Pixels:
    """Resize, crop, corrupt."""
    return corrupt(resize_crop(image, resize, crop), name, severity, seed)


def released(image: Any, name: str, severity: int, seed: int, resize: int = RESIZE, crop: int = CROP) -> Pixels:
    """Resize, crop, corrupt, save as JPEG of quality 85 and read back, as the released ImageNet-C was made."""
    return jpeg_round_trip(direct(image, name, severity, seed, resize, crop))


def prepare_image(
    image: Any, size: int, resize: int, order: str, name: str | None = None, severity: int = 1, seed: int = 0
) -> Pixels:
    """uint8 [size, size, 3], corrupted in the given order; name None: only resized and cropped, as clean images are.

    Raises UserError for an unknown order, and what `corrupt` raises.
    """
    if order not in ORDERS:
        raise UserError(f'there is no order "{order}": {nearest(order, ORDERS, "orders")}')
    if name is None:
        return resize_crop(image, resize, size)
    return (released if order == "released" else direct)(image, name, severity, seed, resize, size)
