"""What a scene stands on and in front of: the concepts, their textures and their exact regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edit_robust.tasks.worlds.scenes.noise import SIZE, Floats, Keys, choice, f32, fractal, grid, hsv, lattice, uniform
from edit_robust.tasks.worlds.scenes.shapes import pixels

CONCEPTS = ("road", "grass", "sea", "table", "sky", "wall", "trees", "mountain")
ROAD, GRASS, SEA, TABLE, SKY, WALL, TREES, MOUNTAIN = range(8)
SNOW = 8  # the ground of snow photographs; no concept of its own

# What stands behind a ground: (concept, weight); SKY means that nothing does.
_BEHIND: dict[int, tuple[tuple[int, float], ...]] = {
    ROAD: ((SKY, 0.15), (MOUNTAIN, 0.25), (TREES, 0.25), (WALL, 0.35)),
    GRASS: ((SKY, 0.25), (MOUNTAIN, 0.30), (TREES, 0.45)),
    SEA: ((SKY, 0.55), (MOUNTAIN, 0.45)),
    TABLE: ((WALL, 1.0),),
    SNOW: ((SKY, 0.2), (MOUNTAIN, 0.3), (TREES, 0.4), (WALL, 0.1)),
}


def flat(hue: Floats, saturation: Floats | float, value: Floats | float, texture: Floats) -> Floats:
    """One colour an image, lightened and darkened by a texture around 1: [n, SIZE, SIZE, 3]."""
    return f32(hsv(hue, saturation, value)[:, None, None] * texture[..., None])


def road(key: Keys, horizon: Floats) -> Floats:
    """Asphalt with a kerb and a dashed line."""
    y, x = pixels(len(key))
    grain = 0.72 + 0.3 * lattice(key, 21, SIZE, SIZE) + 0.26 * lattice(key, 22, 7, 5)
    out = flat(uniform(key, 23, 0.55, 0.72), uniform(key, 24, 0.0, 0.12), uniform(key, 25, 0.28, 0.52), grain)
    h = horizon[:, None, None]
    lane = h + (SIZE - h) * uniform(key, 26, 0.5, 0.85)[:, None, None]
    period = uniform(key, 27, 12, 20)[:, None, None]
    dash = (np.abs(y - lane) < 0.9) & ((x + uniform(key, 28, 0, 20)[:, None, None]) % period < period * 0.55)
    paint = np.where(uniform(key, 29) < 0.75, 0.0, 1.0)[:, None] * f32([0.0, -0.06, -0.5])
    out = np.where(dash[..., None], (f32([0.86, 0.86, 0.84]) + paint)[:, None, None], out)
    kerb = (y - h < 1.6) & (y >= h)
    return f32(np.where(kerb[..., None], out * 0.4 + 0.36, out))


def grass(key: Keys, horizon: Floats) -> Floats:
    """Blades: vertical streaks over brighter and darker patches."""
    blades = lattice(key, 31, 16, SIZE) + 0.5 * lattice(key, 32, SIZE, SIZE)
    texture = 0.42 + 0.55 * blades + 0.35 * lattice(key, 33, 5, 5)
    return flat(uniform(key, 34, 0.22, 0.36), uniform(key, 35, 0.5, 0.8), uniform(key, 36, 0.34, 0.6), texture)


def sea(key: Keys, horizon: Floats) -> Floats:
    """Waves that get longer towards the viewer, with bright crests."""
    y, _ = pixels(len(key))
    depth = np.maximum(y - horizon[:, None, None], 0.0)
    phase = 5.5 * np.sqrt(depth + 0.5) + 5.0 * lattice(key, 41, 14, 6) + uniform(key, 42, 0, 6)[:, None, None]
    texture = 0.82 + 0.20 * np.sin(phase) + 0.28 * lattice(key, 43, 30, 10)
    out = flat(uniform(key, 44, 0.50, 0.63), uniform(key, 45, 0.5, 0.85), uniform(key, 46, 0.4, 0.66), texture)
    return f32(out + np.clip(texture - 1.12, 0, 1)[..., None] * 1.2)


def table(key: Keys, horizon: Floats) -> Floats:
    """A plain table top with a bright front edge to the wall."""
    y, _ = pixels(len(key))
    texture = 0.80 + 0.22 * lattice(key, 51, SIZE, SIZE) + 0.18 * lattice(key, 52, SIZE, 4)
    out = flat(uniform(key, 53, 0.05, 0.12), uniform(key, 54, 0.15, 0.5), uniform(key, 55, 0.5, 0.85), texture)
    edge = np.abs(y - horizon[:, None, None] - 0.8) < 0.8
    return f32(np.where(edge[..., None], out * 0.7, out))


def snow(key: Keys, horizon: Floats) -> Floats:
    """Fallen snow: white, blue in the hollows, sparkling; in places and in wheel tracks the road shows through."""
    hollow = np.clip(1.6 * fractal(key, 61, 4) - 0.45, 0, 1)
    base = 0.95 - hollow[..., None] * f32([0.34, 0.26, 0.14])
    base = base + (lattice(key, 62, SIZE, SIZE)[..., None] - 0.5) * 0.14
    y, _ = pixels(len(key))
    h = horizon[:, None, None]
    track = np.zeros((len(key), SIZE, SIZE), dtype=np.float32)
    for salt in (65, 66):
        middle = (
            h + (SIZE - h) * uniform(key, salt, 0.25, 0.95)[:, None, None] + 1.5 * lattice(key, salt + 2, 2, 5)[:, :1]
        )
        track = np.maximum(track, np.clip(1.6 - np.abs(y - middle), 0, 1))
    bare = np.clip((fractal(key, 63, 5) - uniform(key, 64, 0.38, 0.68)[:, None, None]) * 7, 0, 1)
    bare = np.maximum(bare, track * uniform(key, 69, 0.2, 0.9)[:, None, None])[..., None]
    return f32(base * (1 - 0.9 * bare) + 0.9 * bare * road(key, horizon))


def sky(key: Keys, horizon: Floats) -> Floats:
    """A gradient with clouds."""
    y, _ = pixels(len(key))
    t = np.clip(y / horizon[:, None, None], 0, 1)[..., None]
    top = hsv(uniform(key, 71, 0.53, 0.66), uniform(key, 72, 0.1, 0.65), uniform(key, 73, 0.62, 0.98))[:, None, None]
    low = top * 0.45 + f32([0.52, 0.51, 0.50])
    cloud = np.clip((fractal(key, 74, 4) - uniform(key, 75, 0.45, 0.7)[:, None, None]) * 5, 0, 1)[..., None]
    return f32((top * (1 - t) + low * t) * (1 - 0.8 * cloud) + 0.8 * 0.96 * cloud)


def wall(key: Keys, horizon: Floats) -> Floats:
    """Bricks, or a plastered or striped wall."""
    y, x = pixels(len(key))
    high = uniform(key, 81, 3.5, 6.0)[:, None, None]
    row = np.floor(y / high)
    wide = high * 2.2
    joint = (y % high < 0.9) | ((x + row * wide / 2) % wide < 0.9)
    stripe = ((x / uniform(key, 82, 4, 9)[:, None, None]).astype(np.int64) % 2 == 0) & (y > -1)
    kind = choice(key, 83, (0.5, 0.3, 0.2))[:, None, None]
    texture = 0.86 + 0.14 * lattice(key, 84, SIZE, SIZE) + 0.14 * lattice(key, 85, 6, 6)
    texture = np.where((kind == 0) & joint, texture * 0.72, np.where((kind == 2) & stripe, texture * 0.88, texture))
    return flat(uniform(key, 86, 0.0, 0.16), uniform(key, 87, 0.08, 0.5), uniform(key, 88, 0.45, 0.85), texture)


def trees(key: Keys, horizon: Floats) -> Floats:
    """Dark foliage in clumps."""
    texture = 0.35 + 0.9 * lattice(key, 91, 14, 12) + 0.35 * lattice(key, 92, SIZE, SIZE)
    return flat(uniform(key, 93, 0.24, 0.38), uniform(key, 94, 0.4, 0.75), uniform(key, 95, 0.2, 0.36), texture)


def mountain(key: Keys, horizon: Floats) -> Floats:
    """Hazy rock."""
    texture = 0.7 + 0.5 * fractal(key, 96, 8, 2) + 0.1 * lattice(key, 97, SIZE, SIZE)
    return flat(uniform(key, 98, 0.58, 0.78), uniform(key, 99, 0.1, 0.35), uniform(key, 100, 0.35, 0.6), texture)


MATERIALS = (road, grass, sea, table, sky, wall, trees, mountain, snow)


def _profile(key: Keys, salt: int, cells: int) -> Floats:
    """A random outline over the columns [n, 1, SIZE] in 0 .. 1."""
    return lattice(key, salt, 2, cells)[:, :1]


def regions(key: Keys, ground: NDArray[np.int64], horizon: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What every pixel shows [n, SIZE, SIZE] as a concept number, and what stands behind the ground [n]."""
    y, _ = pixels(len(key))
    behind = np.full(len(key), SKY)
    for number, options in _BEHIND.items():
        drawn = choice(key, 11, [w for _, w in options])
        behind = np.where(ground == number, np.asarray([c for c, _ in options])[drawn], behind)
    h = horizon[:, None, None]
    crown = h - uniform(key, 12, 3, 9)[:, None, None] - 7 * _profile(key, 13, 12) - 2 * grid(key, 14, 1, SIZE)
    ridge = h - uniform(key, 15, 2, 6)[:, None, None] - 13 * _profile(key, 16, 6) - 2 * _profile(key, 17, 24)
    eaves = np.where(ground == TABLE, -1.0, np.where(uniform(key, 18) < 0.6, -1.0, uniform(key, 19, 2, 9)))
    top = np.where((behind == TREES)[:, None, None], crown, np.where((behind == MOUNTAIN)[:, None, None], ridge, h))
    top = np.where((behind == WALL)[:, None, None], eaves[:, None, None], top)
    label = np.where(y >= h, ground[:, None, None], np.where(y >= top, behind[:, None, None], SKY))
    return label, behind


def backdrop(key: Keys, label: NDArray[np.int64], horizon: Floats) -> Floats:
    """The scene without its object [n, SIZE, SIZE, 3]; a material is drawn only where a scene holds it."""
    out = np.zeros((len(key), SIZE, SIZE, 3), dtype=np.float32)
    for number, material in enumerate(MATERIALS):
        mask = label == number
        at = np.flatnonzero(mask.any((1, 2)))
        if len(at):
            out[at] = np.where(mask[at][..., None], material(key[at], horizon[at]), out[at])
    return out
