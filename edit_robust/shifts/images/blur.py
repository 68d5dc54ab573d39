"""Blur: defocus, glass, motion, zoom, Gaussian. Each takes uint8 [height, width, 3] and draws from the given stream."""

from __future__ import annotations

import math

import numpy as np

from edit_robust.shifts.images import pointwise, spatial
from edit_robust.shifts.images.types import Pixels


def gaussian(image: np.ndarray, sigma: tuple[float, float], reflect: bool = False, truncate: float = 4.0) -> np.ndarray:
    """`skimage.filters.gaussian` over rows, then columns, of float [height, width(, channels)]; sigma in pixels."""
    out = np.ascontiguousarray(image if image.ndim == 3 else image[..., np.newaxis])
    for axis, s in enumerate(sigma):
        radius = int(truncate * float(s) + 0.5)
        x = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 / (s * s) * x**2)
        weights = weights / weights.sum()
        out = spatial.correlate_symmetric(out, weights[: radius + 1].copy(), reflect, axis)
    return out.reshape(image.shape)


def zoomed(image: np.ndarray, factor: float, out: np.ndarray) -> None:
    """out [height, width, channels] += the image's middle part, blown up by `factor` and cut to its upper left part.

    Linear interpolation in float64, rounded to the image's type before it is added.
    """
    corners, axes = [], []
    for side, shown in zip(image.shape[:2], out.shape[:2], strict=True):
        part = math.ceil(side / float(factor))
        corners.append((side - part) // 2)
        axes.append(spatial.zoom_axis(zoomed_side(side, factor), part, shown))
    spatial.zoom_layer(image, axes[0], axes[1], corners[0], corners[1], out)


def zoomed_side(side: int, factor: float) -> int:
    """Pixels that a side's middle part has when blown up: never fewer than the side."""
    return round(math.ceil(side / float(factor)) * float(factor))


def motion(image: np.ndarray, radius: int, sigma: float, angle: float, shape: tuple[int, int]) -> np.ndarray:
    """float64: the image [rows, columns, channels] smeared along `angle` degrees; its upper left part of `shape`.

    Weights are half a Gaussian of `sigma` pixels over 2 radius + 1 steps; the rest of a path that is longer than the
    image is cut off, as in the original (its weights are then missing from the sum).
    """
    width = 2 * radius + 1
    steps = np.arange(width)
    weights = np.exp(-(steps**2) / (2 * (sigma**2))) / (np.sqrt(2 * np.pi) * sigma)
    weights = weights / np.sum(weights)
    rise, run = width * np.sin(np.deg2rad(angle)), width * np.cos(np.deg2rad(angle))
    length = math.hypot(rise, run)
    path: list[tuple[int, int]] = []
    for i in range(width):
        dy, dx = -math.ceil(((i * rise) / length) - 0.5), -math.ceil(((i * run) / length) - 0.5)
        if abs(dy) >= image.shape[0] or abs(dx) >= image.shape[1]:
            break
        path.append((dy, dx))
    dys, dxs = np.array(path, dtype=np.int64).T.copy()
    smeared = spatial.smear(image, dys, dxs, weights[: len(path)], *shape)
    return smeared.reshape(*shape, image.shape[2])


def gaussian_blur(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A Gaussian of c pixels. Defect fixed: `multichannel=` is gone from skimage."""
    c = (1, 2, 3, 4, 6)[severity - 1]
    return pointwise.floor_bytes(gaussian(image / 255.0, (c, c)).ravel()).reshape(image.shape)


def glass_blur(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Pixels take a neighbour's colour between two Gaussian blurs. Defect fixed: `multichannel=`; see `shuffle_glass`.

    The original draws two numbers a pixel, one call a pixel; one call a pass reads the same stream.
    """
    sigma, delta, passes = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    pixels = (gaussian(image / 255.0, (sigma, sigma)) * 255).astype(np.uint8)
    moved = (image.shape[0] - 2 * delta) * (image.shape[1] - 2 * delta)
    for _ in range(passes):
        spatial.shuffle_glass(pixels, rng.randint(-delta, delta, size=(moved, 2)), delta)
    return pointwise.floor_bytes(gaussian(pixels / 255.0, (sigma, sigma)).ravel()).reshape(image.shape)


def defocus_blur(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A disk of the given radius in pixels, its edge softened."""
    import cv2

    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    reach = max(radius, 8)
    side = np.arange(-reach, reach + 1)
    disk = (side[:, None] ** 2 + side[None, :] ** 2 <= radius**2).astype(np.float32)
    disk /= np.sum(disk)
    size = (3, 3) if radius <= 8 else (5, 5)
    kernel = cv2.GaussianBlur(disk, ksize=size, sigmaX=softness)
    # One channel at a time: large kernels go through a Fourier transform, whose rounding depends on the layout.
    out = np.empty(image.shape, np.uint8)
    for c in range(3):
        blurred = cv2.filter2D(image[:, :, c] / 255.0, -1, kernel)
        out[:, :, c] = pointwise.floor_bytes(blurred.ravel()).reshape(image.shape[:2])
    return out


def motion_blur(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A smear at a random angle within 45 degrees of the horizontal."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    smeared = motion(image, radius, sigma, rng.uniform(-45, 45), image.shape[:2])
    return np.clip(smeared, 0, 255).astype(np.uint8)


def zoom_blur(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """The mean of the image and of itself at growing zoom factors, in float32."""
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, stop, step)
    x = (image / 255.0).astype(np.float32)
    out = np.zeros_like(x)
    for factor in factors:
        zoomed(x, factor, out)
    mean = (x + out) / (len(factors) + 1)
    return np.asarray((np.clip(mean, 0, 1) * 255).astype(np.uint8))
