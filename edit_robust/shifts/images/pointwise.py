"""Compiled loops over pixels that do not look at their neighbours: noise, colour, tables."""

from __future__ import annotations

import math

import numpy as np

from edit_robust.core.compiled import compiled


@compiled
def add_noise(image: np.ndarray, noise: np.ndarray, scaled: bool, out: np.ndarray) -> None:
    """out = clip(x + noise) or clip(x + x * noise), x = image / 255; image, out uint8 [n], noise float64 [n]."""
    for i in range(image.size):
        x = image[i] / 255.0
        y = x + x * noise[i] if scaled else x + noise[i]
        out[i] = np.uint8(min(max(y, 0.0), 1.0) * 255.0)


@compiled
def salt_and_pepper(image: np.ndarray, plain: np.ndarray, hit: np.ndarray, side: np.ndarray, p: float) -> np.ndarray:
    """uint8 [n]: white or black where hit <= p, plain[value] elsewhere; hit, side uniform float64 [n]."""
    out = np.empty(image.size, np.uint8)
    for i in range(image.size):
        out[i] = plain[image[i]]
        if hit[i] <= p:
            out[i] = 255 if side[i] <= 0.5 else 0
    return out


@compiled
def poisson(
    image: np.ndarray,
    rates: np.ndarray,
    consts: np.ndarray,
    log_factorial: np.ndarray,
    uniforms: np.ndarray,
    shown: np.ndarray,
    out: np.ndarray,
    start: int,
) -> tuple[int, int]:
    """Poisson counts as `RandomState.poisson` draws them, from its stream of uniform numbers; out = shown[count].

    Rates below 10 multiply uniform numbers; others use transformed rejection (PTRS, Hoermann 1993).
    image uint8 [n]; rates [256] by value; consts [256, 6]: exp(-rate), log(rate), a, b, log(1/alpha), v_r;
    uniforms [m]; shown uint8 by count, the last for all above; out uint8 [n], filled from `start`. Returns (numbers
    used, next position): it stops at a pixel that the numbers do not suffice for, and leaves that pixel's unused.
    """
    used, total = 0, uniforms.size
    for i in range(start, image.size):
        value = image[i]
        rate = rates[value]
        begin, found = used, -1
        if rate == 0.0:
            found = 0
        elif rate < 10.0:
            product, k = 1.0, 0
            while used < total:
                product *= uniforms[used]
                used += 1
                if product <= consts[value, 0]:
                    found = k
                    break
                k += 1
        else:
            log_rate, a, b = consts[value, 1], consts[value, 2], consts[value, 3]
            while used + 1 < total:
                u, v = uniforms[used] - 0.5, uniforms[used + 1]
                used += 2
                us = 0.5 - abs(u)
                k = math.floor((2.0 * a / us + b) * u + rate + 0.43)
                if us >= 0.07 and v <= consts[value, 5]:
                    found = k
                    break
                if k < 0 or (us < 0.013 and v > us):
                    continue
                left = math.log(v) + consts[value, 4] - math.log(a / (us * us) + b)
                # Proposals come from heavy tails: some lie far above every table.
                log_k = log_factorial[k] if k < log_factorial.size else math.lgamma(k + 1.0)
                if left <= -rate + k * log_rate - log_k:
                    found = k
                    break
        if found < 0:
            return begin, i
        out[i] = shown[min(found, shown.size - 1)]
    return used, image.size


@compiled
def floor_bytes(x: np.ndarray) -> np.ndarray:
    """uint8 [n] of clip(x, 0, 1) * 255 for float64 [n]."""
    out = np.empty(x.size, np.uint8)
    for i in range(x.size):
        out[i] = np.uint8(min(max(x[i], 0.0), 1.0) * 255.0)
    return out


@compiled
def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[value, channel] of uint8 [n, channels]; table uint8 [256, channels]."""
    out = np.empty(image.shape, np.uint8)
    for i in range(image.shape[0]):
        for c in range(image.shape[1]):
            out[i, c] = table[image[i, c], c]
    return out


@compiled
def blend(image: np.ndarray, other: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """uint8 of clip(mine[image] + theirs[other], 0, 255); both uint8 [height, width, 3], tables float64 [256]."""
    out = np.empty(image.shape, np.uint8)
    for h in range(image.shape[0]):
        for w in range(image.shape[1]):
            for c in range(image.shape[2]):
                value = mine[image[h, w, c]] + theirs[other[h, w, c]]
                out[h, w, c] = np.uint8(min(max(value, 0.0), 255.0))
    return out


@compiled
def shift_hsv(image: np.ndarray, scale_s: float, add_s: float, add_v: float, saturation: bool) -> np.ndarray:
    """uint8 [n, 3] with saturation clip(s * scale_s + add_s) or value clip(v + add_v), as skimage's HSV has it."""
    out = np.empty(image.shape, np.uint8)
    for i in range(image.shape[0]):
        r, g, b = image[i, 0] / 255.0, image[i, 1] / 255.0, image[i, 2] / 255.0
        v = max(r, max(g, b))
        delta = v - min(r, min(g, b))
        hue, s = 0.0, 0.0
        if delta != 0.0:
            s = delta / v
            # Of two equal channels the later one decides, as later assignments overwrite earlier ones.
            if b == v:
                hue = 4.0 + (r - g) / delta
            elif g == v:
                hue = 2.0 + (b - r) / delta
            else:
                hue = (g - b) / delta
            hue /= 6.0
            if hue < 0.0:
                hue += 1.0
        if saturation:
            s = min(max(s * scale_s + add_s, 0.0), 1.0)
        else:
            v = min(max(v + add_v, 0.0), 1.0)
        sector = math.floor(hue * 6)
        f = hue * 6 - sector
        p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
        k = int(sector) % 6
        if k == 0:
            r, g, b = v, t, p
        elif k == 1:
            r, g, b = q, v, p
        elif k == 2:
            r, g, b = p, v, t
        elif k == 3:
            r, g, b = p, q, v
        elif k == 4:
            r, g, b = t, p, v
        else:
            r, g, b = v, p, q
        out[i, 0] = np.uint8(min(max(r, 0.0), 1.0) * 255.0)
        out[i, 1] = np.uint8(min(max(g, 0.0), 1.0) * 255.0)
        out[i, 2] = np.uint8(min(max(b, 0.0), 1.0) * 255.0)
    return out


@compiled
def add_fog(image: np.ndarray, grid: np.ndarray, amount: float, brightest: float) -> np.ndarray:
    """Fog over uint8 [height, width, 3], keeping the range; grid float64 [size, size] of any range."""
    height, width, channels = image.shape
    low = grid.min()
    high = grid.max() - low
    out = np.empty(image.shape, np.uint8)
    for h in range(height):
        for w in range(width):
            fog = amount * ((grid[h, w] - low) / high)
            for c in range(channels):
                x = (image[h, w, c] / 255.0 + fog) * brightest / (brightest + amount)
                out[h, w, c] = np.uint8(min(max(x, 0.0), 1.0) * 255.0)
    return out
