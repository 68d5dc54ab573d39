"""Eight procedural styles, each in several variants.

A variant fixes the palette and the scale of a style; the image's own key fixes the pattern. Train and test of an edit
can so use variants that share nothing but the style.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edit_robust.tasks.worlds.scenes.noise import (
    SIZE,
    Floats,
    Keys,
    f32,
    fractal,
    grid,
    hsv,
    keys,
    lattice,
    pebbles,
    uniform,
)
from edit_robust.tasks.worlds.scenes.shapes import pixels

STYLES = ("snow", "wood", "graffiti", "gravel", "fall", "fur", "black-and-white", "flowers")
N_VARIANTS = 6


def _between(low: tuple[float, ...], high: tuple[float, ...], t: Floats) -> Floats:
    """Colours from low to high along t [n, SIZE, SIZE] -> [..., 3]."""
    a, b = f32(low), f32(high)
    return f32(a + (b - a) * t[..., None])


def _snow(key: Keys, v: Keys) -> Floats:
    drift = np.clip(1.5 * fractal(key, 1, int(uniform(v, 1, 3, 7)[0])) - 0.4, 0, 1)
    depth = uniform(v, 2, 0.2, 0.42)[0]
    out = 0.97 - drift[..., None] * f32([1.0, 0.78, 0.45]) * depth
    return f32(out + (lattice(key, 5, SIZE, SIZE)[..., None] - 0.5) * 0.16)


def _wood(key: Keys, v: Keys) -> Floats:
    y, x = pixels(len(key))
    along = y if uniform(v, 1)[0] < 0.7 else x
    wide = uniform(v, 2, 0.7, 1.3)[0]
    bend = 9.0 * lattice(key, 1, 5, 4) + 1.5 * lattice(key, 2, 24, 8)
    ring = 0.5 + 0.5 * np.sin(along * wide + bend)
    fibre = lattice(key, 3, SIZE, 8) if uniform(v, 1)[0] < 0.7 else lattice(key, 3, 8, SIZE)
    hue = uniform(v, 3, 0.045, 0.085)
    dark, light = hsv(hue, 0.8, uniform(v, 4, 0.25, 0.4))[0], hsv(hue + 0.01, 0.6, uniform(v, 5, 0.65, 0.85))[0]
    return _between(tuple(dark), tuple(light), np.clip(0.7 * ring + 0.4 * fibre, 0, 1))


def _graffiti(key: Keys, v: Keys) -> Floats:
    cells = int(uniform(v, 1, 4, 8)[0])
    field = fractal(key, 1, cells, 2) * uniform(v, 2, 4, 7)[0]
    band = np.floor(field)
    hue = (band * 0.381966 + lattice(key, 2, 3, 3) * 0.2 + uniform(key, 3)[:, None, None]) % 1.0
    out = hsv(hue.reshape(-1), 0.95, 0.95).reshape(*hue.shape, 3)
    line = np.abs(field - band - 0.5) > 0.40
    return f32(np.where(line[..., None], f32([0.05, 0.05, 0.08]), out))


def _gravel(key: Keys, v: Keys) -> Floats:
    first, second, label = pebbles(key, 1, int(uniform(v, 1, 3, 5.99)[0]))
    tone = uniform(v, 2, 0.25, 0.45)[0] + 0.5 * label
    stone = tone * (1.1 - 0.5 * first) * np.clip((second - first) * 5, 0.15, 1)
    tint = 1 + (uniform(v, 3, -0.1, 0.1)[0]) * f32([1, 0, -1])
    return f32(stone[..., None] * tint)


def _fall(key: Keys, v: Keys) -> Floats:
    first, second, label = pebbles(key, 1, int(uniform(v, 1, 3, 5.99)[0]))
    hue = (uniform(v, 2, -0.02, 0.03)[0] + 0.13 * label) % 1.0
    leaf = hsv(hue.reshape(-1), 0.92, 0.9).reshape(*hue.shape, 3)
    return f32(leaf * np.clip(0.35 + 1.6 * (second - first), 0.3, 1)[..., None])


def _fur(key: Keys, v: Keys) -> Floats:
    lean = int(uniform(v, 1, 0, 3)[0])
    hair = (lattice(key, 1, 9, SIZE), lattice(key, 1, SIZE, 9), lattice(key, 1, 12, SIZE))[lean]
    t = np.clip(0.2 + 1.1 * (hair - 0.4) + 0.5 * lattice(key, 2, 6, 6), 0, 1)
    hue, depth = uniform(v, 2, 0.05, 0.11), uniform(v, 3, 0.35, 0.7)
    return _between(tuple(hsv(hue, depth, 0.22)[0]), tuple(hsv(hue, depth * 0.5, 0.95)[0]), t)


def _zebra(key: Keys, v: Keys) -> Floats:
    y, x = pixels(len(key))
    angle = uniform(v, 1, 0, np.pi)[0]
    across = x * np.cos(angle) + y * np.sin(angle)
    wave = np.sin(across * uniform(v, 2, 0.6, 1.1)[0] + 10 * lattice(key, 1, 5, 5))
    return _between((0.04, 0.04, 0.04), (0.97, 0.97, 0.97), np.clip(0.5 + 3 * wave, 0, 1))


def _flowers(key: Keys, v: Keys) -> Floats:

    cell = int(uniform(v, 1, 4, 6.99)[0])
    leaves = hsv(uniform(v, 2, 0.25, 0.38), 0.65, 0.42)[0] * (0.5 + 0.9 * lattice(key, 1, SIZE, SIZE))[..., None]
    first, _, label = pebbles(key, 2, cell)
    hue = (0.62 + 0.55 * label + uniform(v, 3, 0, 0.3)[0]) % 1.0
    petal = hsv(hue.reshape(-1), 0.75, 0.98).reshape(*hue.shape, 3)
    out = np.where((first < 0.48)[..., None], petal, leaves)
    return f32(np.where((first < 0.17)[..., None], f32([0.98, 0.85, 0.2]), out))


_DRAW: tuple[Callable[[Keys, Keys], Floats], ...] = (_snow, _wood, _graffiti, _gravel, _fall, _fur, _zebra, _flowers)


def texture(style: str, key: Keys, variant: int) -> Floats:
    """One variant of a style, an own pattern an image: [n, SIZE, SIZE, 3] in 0 .. 1."""
    number = STYLES.index(style)
    return np.clip(_DRAW[number](key, keys(100 + number, 0, [variant])), 0, 1)


def snowfall(key: Keys, flakes: Floats) -> Floats:
    """How much of a pixel a falling flake covers [n, SIZE, SIZE]; `flakes` [n] in 0 .. 1 is the density."""
    drop = grid(key, 301, SIZE, SIZE) > (1 - 0.05 * flakes)[:, None, None]
    near = grid(key, 302, SIZE, SIZE) > (1 - 0.014 * flakes)[:, None, None]
    cover = 0.75 * drop.astype(np.float32)
    wide = near.astype(np.float32)
    for axis, shift in ((1, 1), (2, 1)):
        wide = np.maximum(wide, np.roll(wide, shift, axis))
    return np.maximum(cover, 0.9 * wide)
