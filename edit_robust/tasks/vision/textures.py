"""Tensors and textures from files, and what is made of photographs before an edit: masks pasted, textures fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import EXTENSIONS, Mask, read_image
from edit_robust.core.images import Pixels

Item = TypeVar("Item", covariant=True)


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


def paste(clean: Pixels, cover: Pixels, mask: Mask) -> Pixels:
    """x (1 - m) + cover m. All have one size."""
    return np.where(mask[..., None], cover, clean)


def fitted(texture: Pixels, size: tuple[int, int]) -> Pixels:
    """A texture scaled and cropped at its centre to `size` (height, width)."""
    if texture.shape[:2] == size:
        return texture
    return np.asarray(ImageOps.fit(Image.fromarray(texture), (size[1], size[0]), Image.Resampling.BILINEAR))


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
