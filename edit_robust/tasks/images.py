"""Photographs from files, safely: whatever a file holds becomes uint8 RGB or an error of one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.images import Pixels

Mask = Bool[np.ndarray, "height width"]
Item = TypeVar("Item", covariant=True)

MAX_PIXELS = 200_000_000
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Lazy(Sequence[Item]):
    """`n` items that are made when they are asked for, each time anew: a thousand photographs need no memory."""

    def __init__(self, n: int, make: Callable[[int], Item]) -> None:
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self._make(j) for j in range(*i.indices(self._n))]
        j = i + self._n if i < 0 else i
        if not 0 <= j < self._n:
            raise IndexError(i)
        return self._make(int(j))


# -- pixels --------------------------------------------------------------------------------------------------------


def _open(source: BinaryIO | Path, where: str) -> Image.Image:
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


def decode_image(source: BinaryIO | Path, where: str) -> Pixels:
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


def paste(clean: Pixels, cover: Pixels, mask: Mask) -> Pixels:
    """x (1 - m) + cover m. All have one size."""
    return np.where(mask[..., None], cover, clean)


def fitted(texture: Pixels, size: tuple[int, int]) -> Pixels:
    """A texture scaled and cropped at its centre to `size` (height, width)."""
    if texture.shape[:2] == size:
        return texture
    return np.asarray(ImageOps.fit(Image.fromarray(texture), (size[1], size[0]), Image.Resampling.BILINEAR))


# -- tensors and textures ------------------------------------------------------------------------------------------


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a .pt or .npz file. Nothing in the file is executed. Raises UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return {k: found[k] for k in found.files}
        import torch

        try:  # segmentations of many concepts are open at once: mapped, they take no memory
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of the oldest format cannot be mapped
            held = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(held, torch.Tensor):
            held = {"imgs": held}
        return {str(k): v.numpy() for k, v in held.items() if isinstance(v, torch.Tensor)}
    except Exception as error:  # zip, pickle and header errors of several libraries
        raise UserError(
            f"{path} cannot be read as {'named arrays' if path.suffix == '.npz' else 'plain tensors'} "
            f"({' '.join(str(error).split())[:100] or type(error).__name__})"
        ) from error


def as_pixels(
    values: UInt8[np.ndarray, "n 3 h w"] | Float[np.ndarray, "n 3 h w"], where: str
) -> UInt8[np.ndarray, "n h w 3"]:
    """A stack of images, channels first, uint8 or float in [0, 1], as uint8 with channels last."""
    if values.ndim != 4 or values.shape[1] != 3:
        raise UserError(f'{where}: "imgs" has the shape {list(values.shape)}; [n, 3, height, width] is expected')
    if values.dtype != np.uint8:
        if not np.isfinite(values).all() or values.min(initial=0) < -1e-3 or values.max(initial=0) > 1 + 1e-3:
            raise UserError(f'{where}: "imgs" must be uint8, or numbers from 0 to 1')
        values = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def read_textures(path: str | Path, option: str = "task.textures") -> list[Pixels]:
    """Textures of a style: a .pt or .npz file with `imgs` [n, 3, h, w], one image, or a folder of images."""
    path = Path(path)
    if path.is_dir():
        found = [read_image(p) for p in sorted(path.iterdir()) if p.suffix.lower() in EXTENSIONS]
    elif path.suffix in (".pt", ".npz"):
        arrays = read_arrays(path)
        if "imgs" not in arrays:
            raise UserError(f'{option}={path} has no "imgs"; {nearest("imgs", arrays, "entries")}')
        found = list(as_pixels(arrays["imgs"], str(path)))
    elif path.is_file():
        found = [read_image(path)]
    else:
        raise UserError(f"{option}={path}: there is no such file or folder")
    if not found:
        raise UserError(f"{option}={path} holds no images")
    return found
