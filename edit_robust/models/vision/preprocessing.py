"""How a network wants its images: size, crop and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from edit_robust.core import UserError
from edit_robust.core.images import Pixels

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop of `size`, then (x / 255 - mean) / std for each of the three channels."""

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    interpolation: str = "bilinear"

    def changed(
        self,
        size: int | None,
        resize: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        interpolation: str | None,
    ) -> Preprocessing:
        """The same but for what is given; a new size keeps the share of the image that the crop shows."""
        for name, triple in (("mean", mean), ("std", std)):
            if triple is not None and (len(triple) != 3 or (name == "std" and min(triple) <= 0)):
                raise UserError(f"model.{name}={list(triple)} must be three numbers{', above 0' * (name == 'std')}")
        if min(1 if size is None else size, 1 if resize is None else resize) < 1:
            raise UserError("model.input_size and model.resize_size must be at least 1")
        new = size or self.size
        scaled = resize or (self.resize if new == self.size else round(new * self.resize / self.size))
        if scaled < new:
            raise UserError(f"model.resize_size={scaled} must be at least the input size, {new}")
        return replace(
            self,
            size=new,
            resize=scaled,
            mean=tuple(mean or self.mean),
            std=tuple(std or self.std),
            interpolation=interpolation or self.interpolation,
        )


def crop(image: Pixels, how: Preprocessing) -> UInt8[np.ndarray, "size size 3"]:
    """The shorter side resized to `how.resize`, then the centre; an image of the right size is returned as it is."""
    h, w = image.shape[:2]
    if h == w == how.size == how.resize:
        return image
    short = min(h, w)
    height, width = int(how.resize * h / short), int(how.resize * w / short)
    picture = Image.fromarray(image)
    if (height, width) != (h, w):
        picture = picture.resize((width, height), RESAMPLING[how.interpolation])
    top, left = round((height - how.size) / 2), round((width - how.size) / 2)
    return np.asarray(picture.crop((left, top, left + how.size, top + how.size)))
