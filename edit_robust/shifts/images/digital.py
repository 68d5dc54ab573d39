"""Digital: contrast, elastic transform, pixelate, JPEG, saturate. Each takes uint8 [height, width, 3]."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from edit_robust.shifts.images import pointwise, spatial
from edit_robust.shifts.images.blur import gaussian
from edit_robust.shifts.images.types import Pixels


def contrast(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """(x - mean) c + mean, each channel around its own mean. A channel has 256 values at most: one table each."""
    c = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    means = np.mean(image / 255.0, axis=(0, 1))  # in this layout: the order of the sum is part of the result
    values = np.arange(256)[:, None] / 255.0
    table = (np.clip((values - means) * c + means, 0, 1) * 255).astype(np.uint8)
    return pointwise.look_up(image.reshape(-1, 3), table).reshape(image.shape)


def elastic_transform(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Pixels moved by smoothed noise. Kept: the horizontal noise, too, is scaled by the height."""
    alpha = (250 * 0.05, 250 * 0.065, 250 * 0.085, 250 * 0.1, 250 * 0.12)[severity - 1]
    shape = image.shape[:2]
    reach = shape[0] * 0.005
    sigma = (shape[0] * 0.01, shape[1] * 0.01)
    dx, dy = (
        (gaussian(rng.uniform(-reach, reach, size=shape), sigma, reflect=True, truncate=3) * alpha).astype(np.float32)
        for _ in range(2)
    )
    return spatial.warp(image.astype(np.float32) / np.float32(255), dy, dx)


def pixelate(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Shrunk with a box filter, blown up again without one."""
    c = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def jpeg(image: Pixels, quality: int) -> Pixels:
    """The image after a JPEG file of this quality; depends on the libjpeg that Pillow was built with."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def jpeg_compression(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A JPEG file of low quality."""
    return jpeg(image, (25, 18, 15, 10, 7)[severity - 1])


def saturate(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """HSV saturation s -> scale s + offset."""
    scale, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    return pointwise.shift_hsv(image.reshape(-1, 3), float(scale), float(offset), 0.0, True).reshape(image.shape)
