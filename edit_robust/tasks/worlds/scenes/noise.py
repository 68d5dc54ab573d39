"""Random numbers of the scene world: a pure function of (image key, salt), never of the batch or of call order.

Every image owns one 64-bit key. All its random numbers are hashes of that key and a salt, so that an image is the
same alone, in any batch, and on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 48
Floats = NDArray[np.float32]
Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def f32(values: Any) -> Floats:
    """Numbers as a float32 array."""
    return np.asarray(values, dtype=np.float32)


def mix(x: Keys) -> Keys:
    """The finaliser of splitmix64: one bijective scramble of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(stream: int, seed: int, index: Sequence[int] | NDArray[np.int64]) -> Keys:
    """One key an image [n], from the stream (a split, a style ...), the seed and the image's index."""
    at = np.asarray(index, dtype=np.int64).astype(np.uint64).reshape(-1)
    base = mix(np.array([stream, seed], dtype=np.int64).astype(np.uint64) * _GOLDEN + np.uint64(1))
    return mix(mix(at * _GOLDEN + base[0]) + base[1])


def salted(key: Keys, salt: int) -> Keys:
    """Independent keys [n] for one purpose."""
    # An array of one, because numpy warns when a scalar wraps around.
    return mix(key + np.array([salt], dtype=np.uint64) * _GOLDEN)


def uniform(key: Keys, salt: int, low: float = 0.0, high: float = 1.0) -> Floats:
    """One number an image [n]."""
    bits = (salted(key, salt) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return f32(low + (high - low) * bits)


def choice(key: Keys, salt: int, weights: Sequence[float]) -> NDArray[np.int64]:
    """One choice an image [n], by weight."""
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    return np.minimum(np.searchsorted(edges / edges[-1], uniform(key, salt), side="right"), len(weights) - 1)


def grid(key: Keys, salt: int, *shape: int) -> Floats:
    """Independent uniform numbers [n, *shape]."""
    count = np.arange(int(np.prod(shape)), dtype=np.uint32)
    x = salted(key, salt).astype(np.uint32)[:, None] ^ (count * np.uint32(0x9E3779B1))[None]
    # lowbias32: enough for textures, and four times cheaper than 64 bits.
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return ((x >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)).reshape(len(key), *shape)


def normal(key: Keys, salt: int, *shape: int) -> Floats:
    """About normal numbers [n, *shape]: the sum of four uniform ones, scaled to variance 1."""
    total = sum(grid(key, 4 * salt + i, *shape) for i in range(4))
    return f32((total - 2.0) * np.float32(np.sqrt(3.0)))


@cache
def _spread(cells: int) -> Floats:
    """Interpolation weights [SIZE, cells] from a lattice to the pixels, smooth between its points."""
    at = (np.arange(SIZE) + 0.5) / SIZE * (cells - 1)
    low = np.minimum(at.astype(int), cells - 2)
    t = at - low
    t = t * t * (3 - 2 * t)
    out = np.zeros((SIZE, cells), dtype=np.float32)
    out[np.arange(SIZE), low] = 1 - t
    out[np.arange(SIZE), low + 1] = t
    return out


def lattice(key: Keys, salt: int, rows: int, columns: int) -> Floats:
    """Smooth noise in [0, 1] on the pixels [n, SIZE, SIZE] with that many cells; SIZE cells are white noise."""
    values = grid(key, salt, rows, columns)
    if rows < SIZE:
        values = np.matmul(_spread(rows), values)
    if columns < SIZE:
        values = np.matmul(values, _spread(columns).T)
    return values


def fractal(key: Keys, salt: int, cells: int, octaves: int = 3) -> Floats:
    """Noise over several scales in [0, 1], [n, SIZE, SIZE]."""
    total, weight = np.zeros((len(key), SIZE, SIZE), dtype=np.float32), 0.0
    for i in range(octaves):
        total += lattice(key, salt + 101 * i, min(cells << i, SIZE), min(cells << i, SIZE)) * 0.5**i
        weight += 0.5**i
    return total / np.float32(weight)


def pebbles(key: Keys, salt: int, cell: int) -> tuple[Floats, Floats, Floats]:
    """Jittered points, one a cell of `cell` pixels: distance to the nearest and to the second, both in cells, and a
    random number of the nearest; each [n, SIZE, SIZE]."""
    count = SIZE // cell + 3
    jitter = grid(key, salt, 3, count, count)
    pixel = (np.arange(SIZE) + 0.5) / cell
    home = pixel.astype(int)
    y, x = pixel[:, None].astype(np.float32), pixel[None].astype(np.float32)
    first = np.full((len(key), SIZE, SIZE), 9.0, dtype=np.float32)
    second, label = first.copy(), first.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = np.ix_(home + dy + 1, home + dx + 1)
            py = jitter[:, 0][:, at[0], at[1]] + (home + dy)[:, None].astype(np.float32)
            px = jitter[:, 1][:, at[0], at[1]] + (home + dx)[None].astype(np.float32)
            d = np.sqrt((py - y) ** 2 + (px - x) ** 2)
            nearer = d < first
            second = np.where(nearer, first, np.minimum(second, d))
            label = np.where(nearer, jitter[:, 2][:, at[0], at[1]], label)
            first = np.where(nearer, d, first)
    return first, second, label


def hsv(hue: Floats, saturation: Floats | float, value: Floats | float) -> Floats:
    """Colours [n, 3] in [0, 1] from hue [n] in turns."""
    k = np.stack([(hue * 6 + offset) % 6 for offset in (5.0, 3.0, 1.0)], axis=-1)
    chroma = np.clip(np.minimum(k, 4 - k), 0, 1)
    saturation = np.broadcast_to(np.asarray(saturation, dtype=np.float32), hue.shape)[:, None]
    value = np.broadcast_to(np.asarray(value, dtype=np.float32), hue.shape)[:, None]
    return f32(value - value * saturation * chroma)
