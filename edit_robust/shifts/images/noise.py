"""Noise: Gaussian, shot, impulse, speckle. Each takes uint8 [height, width, 3] and draws from the given stream."""

from __future__ import annotations

import math

import numpy as np

from edit_robust.shifts.images import pointwise
from edit_robust.shifts.images.types import Pixels

#: Random numbers drawn at once. The stream does not depend on it; arrays of this size stay in the processor's cache.
_CHUNK = 8192


def gaussian_noise(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """x + N(0, c)."""
    return _normal(image, (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1], False, rng)


def speckle_noise(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """x + x N(0, c)."""
    return _normal(image, (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1], True, rng)


def _normal(image: Pixels, std: float, scaled: bool, rng: np.random.RandomState) -> Pixels:
    """Normal noise, added as it is or times x."""
    out = np.empty_like(image)
    flat, flat_out = image.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        noise = rng.normal(size=flat[part].size, scale=std)
        pointwise.add_noise(flat[part], noise, scaled, flat_out[part])
    return out


def impulse_noise(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """A share c of the channel values turns white or black.

    Defect fixed: the original calls skimage's `random_noise`, which draws from an unseeded generator of its own. Here
    it is what `random_noise(..., rng=...)` gives when that generator runs on the seeded stream: one uniform number a
    value for "hit", then one a value for "white". skimage releases of the original's time drew the same from
    np.random.
    """
    c = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    plain = (np.clip(np.arange(256) / 255.0, 0, 1) * 255).astype(np.uint8)
    hit, side = rng.random_sample(image.size), rng.random_sample(image.size)
    return pointwise.salt_and_pepper(image.ravel(), plain, hit, side, c).reshape(image.shape)


def shot_noise(image: Pixels, severity: int, rng: np.random.RandomState) -> Pixels:
    """Poisson(c x) / c.

    The counts are drawn by our own loop over the stream's uniform numbers, equal to `rng.poisson`: everything that
    depends on the rate alone stands in a table, since an image has 256 rates at most.
    """
    c = (60, 25, 12, 5, 3)[severity - 1]
    rates = np.arange(256) / 255.0 * c
    shown = (np.clip(np.arange(c + 1) / float(c), 0, 1) * 255).astype(np.uint8)  # counts above c are white, too
    consts = np.array([_constants(rate) for rate in rates.tolist()])
    log_factorial = np.array([math.lgamma(k + 1.0) for k in range(256)])
    out = np.empty(image.size, np.uint8)
    done, left = 0, np.empty(0)
    while done < out.size:
        uniforms = np.concatenate([left, rng.random_sample(_CHUNK)])
        used, done = pointwise.poisson(image.reshape(-1), rates, consts, log_factorial, uniforms, shown, out, done)
        left = uniforms[used:]
    return out.reshape(image.shape)


def _constants(rate: float) -> tuple[float, ...]:
    """What `pointwise.poisson` needs of a rate."""
    if rate < 10:
        return math.exp(-rate), 0.0, 0.0, 0.0, 0.0, 0.0
    b = 0.931 + 2.53 * math.sqrt(rate)
    log_inverse_alpha = math.log(1.1239 + 1.1328 / (b - 3.4))
    return math.exp(-rate), math.log(rate), -0.059 + 0.02483 * b, b, log_inverse_alpha, 0.9277 - 3.6224 / (b - 2)
