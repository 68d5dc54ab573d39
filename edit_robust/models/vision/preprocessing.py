"""How a network wants its images: size, crop and normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from edit_robust.core import UserError
from edit_robust.core.images import Pixels

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESAMPLING = {r.name.lower(): r for r in Image.Resampling}
#: What becomes of images that are not square, as timm names it; see `Preprocessing`.
CropMode = Literal["center", "squash", "border"]
CROP_SHARE = 0.875  # of a network that does not tell its own
Triple = tuple[float, ...]


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop of `size`, then (x / 255 - mean) / std for each of the three channels.

    mode: `center`: the shorter side becomes `resize`, and what lies beyond the crop is lost. `squash`: both sides
          become `resize`, whatever the image's proportions. `border`: the longer side becomes `resize`, and the rest of
          the crop is filled with the mean colour.
    share: of a side that the crop shows, where the network tells it (timm's crop_pct): what `resize` follows from when
          another size is asked for. More than 1 leaves a black margin.
    """

    size: int = 224
    resize: int = 256
    mean: Triple = IMAGENET[0]
    std: Triple = IMAGENET[1]
    interpolation: str = "bilinear"
    mode: CropMode = "center"
    share: float | None = None

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
        if resize is not None and resize < new:
            raise UserError(f"model.resize_size={resize} must be at least the input size, {new}")
        return replace(
            self,
            size=new,
            resize=resize or self._resize_for(new),
            mean=tuple(mean or self.mean),
            std=tuple(std or self.std),
            interpolation=interpolation or self.interpolation,
        )

    def _resize_for(self, size: int) -> int:
        if size == self.size:
            return self.resize
        return round(size * self.resize / self.size) if self.share is None else math.floor(size / self.share)


def as_described(
    described: Mapping[str, Any], mean: Triple = IMAGENET[0], std: Triple = IMAGENET[1], name: str = "the network"
) -> Preprocessing:
    """The preprocessing that a timm configuration (`pretrained_cfg`) asks for at evaluation; pixel for pixel that of
    `timm.data.create_transform`. mean, std: where the configuration tells none.

    Raises UserError for sizes that are not square, for images of other than three channels, and for unknown words.
    """
    channels, height, width = described.get("input_size") or (3, 224, 224)
    if channels != 3 or height != width:
        raise UserError(f"{name} takes images of {channels} x {height} x {width}; 3 channels and a square are needed")
    share = float(described.get("crop_pct") or CROP_SHARE)
    mode: CropMode = described.get("crop_mode") or "center"
    interpolation = described.get("interpolation") or "bicubic"
    if mode not in get_args(CropMode) or interpolation not in RESAMPLING:
        raise UserError(f"{name} crops its images by {mode!r} and scales them by {interpolation!r}, which are unknown")
    return Preprocessing(
        int(height),
        math.floor(height / share),
        tuple(described.get("mean") or mean),
        tuple(described.get("std") or std),
        interpolation,
        mode,
        share,
    )


def in_words(how: Preprocessing) -> str:
    """What `crop` does: "resize 256 (bilinear), crop 224"; with the mode where it is not the centre's."""
    mode = "" if how.mode == "center" else f", {how.mode}"
    return f"resize {how.resize} ({how.interpolation}{mode}), crop {how.size}"


def crop(
    image: Pixels, how: Preprocessing, fill: tuple[int, int, int] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """The image resized as `how.mode` says, and its centre; an image of the right size is returned as it is.

    fill: colour where the resized image does not cover the crop; None: the mean colour (`border`), or black.
    """
    h, w = image.shape[:2]
    if h == w == how.size == how.resize:
        return image
    height, width = _resized(h, w, how)
    picture = Image.fromarray(image)
    if (height, width) != (h, w):
        picture = picture.resize((width, height), RESAMPLING[how.interpolation])
    if fill is None:
        red, green, blue = (round(255 * x) for x in how.mean)
        fill = (red, green, blue) if how.mode == "border" else (0, 0, 0)
    across, down = max(how.size - width, 0), max(how.size - height, 0)
    if across or down:
        margins = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)  # left, top, right, bottom
        picture = ImageOps.expand(picture, margins, fill)
    top, left = round((picture.height - how.size) / 2), round((picture.width - how.size) / 2)
    return np.asarray(picture.crop((left, top, left + how.size, top + how.size)))


def _resized(h: int, w: int, how: Preprocessing) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    if how.mode == "squash":
        return how.resize, how.resize
    if how.mode == "border":
        ratio = max(h, w) / how.resize
        return round(h / ratio), round(w / ratio)
    short = min(h, w)
    return int(how.resize * h / short), int(how.resize * w / short)
