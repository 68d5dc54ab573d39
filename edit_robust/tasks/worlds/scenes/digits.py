"""Digits beside the scene world: white on black (mnist), on house fronts between others (svhn), on cards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edit_robust.tasks.worlds.scenes.noise import SIZE, Floats, Ints, Keys, f32, grid, hsv, lattice, normal, uniform
from edit_robust.tasks.worlds.scenes.shapes import Pen, pixels

DIGITS = ("mnist", "svhn", "cards")


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 8) -> list[tuple[float, float]]:
    """Points on an ellipse, angles in turns, 0 to the right and counter-clockwise."""
    angles = 2 * np.pi * np.linspace(start, stop, n)
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


# Strokes in a box of -0.5 .. 0.5 by -1 .. 1, y up.
_STROKES: tuple[list[list[tuple[float, float]]], ...] = (
    [_arc(0, 0, 0.5, 0.95, 0, 1, 13)],
    [[(-0.25, 0.6), (0.05, 0.95), (0.05, -0.95)]],
    [[*_arc(0, 0.45, 0.48, 0.5, 0.45, -0.12), (-0.5, -0.92), (0.52, -0.92)]],
    [_arc(0, 0.46, 0.42, 0.46, 0.4, -0.25), _arc(0, -0.46, 0.48, 0.48, 0.25, -0.4)],
    [[(0.2, -0.95), (0.2, 0.95), (-0.5, -0.3), (0.5, -0.3)]],
    [[(0.45, 0.92), (-0.4, 0.92), (-0.44, 0.1)], [(-0.44, 0.1), *_arc(-0.02, -0.35, 0.5, 0.56, 0.3, -0.4)]],
    [[(0.3, 0.95), (-0.3, 0.3)], _arc(0, -0.4, 0.46, 0.52, 0.38, 1.38, 12), [(-0.3, 0.3), (-0.46, -0.4)]],
    [[(-0.48, 0.92), (0.48, 0.92), (-0.1, -0.95)]],
    [_arc(0, 0.48, 0.38, 0.44, 0, 1, 10), _arc(0, -0.45, 0.47, 0.5, 0, 1, 11)],
    [_arc(0, 0.4, 0.46, 0.52, -0.12, 0.88, 12), [(0.46, 0.4), (0.25, -0.95)]],
)


def _glyph(key: Keys, digit: Ints, x: Floats, y: Floats, size: Floats, width: Floats, slant: Floats) -> Floats:
    """Coverage [n, SIZE, SIZE] of one digit an image: centre, half height and half stroke width in pixels."""
    py, px = pixels(len(key))
    v = (y[:, None, None] - py) / size[:, None, None]
    u = (px - x[:, None, None]) / size[:, None, None] - slant[:, None, None] * v
    u = u + 0.22 * (lattice(key, 1, 5, 5) - 0.5)
    v = v + 0.22 * (lattice(key, 2, 5, 5) - 0.5)
    out = np.zeros((len(key), SIZE, SIZE), dtype=np.float32)
    for d in np.unique(digit):
        rows = np.flatnonzero(digit == d)
        pen = Pen(key[rows], f32(u[rows]), f32(v[rows]))
        half = (width / size)[rows][:, None, None]
        lines = [pen.stroke(x0, y0, x1, y1, half) for points in _STROKES[d] for (x0, y0), (x1, y1) in pairwise(points)]
        out[rows] = np.clip(0.5 - np.minimum.reduce(lines) * size[rows][:, None, None], 0, 1)
    return out


def _over(canvas: Floats, cover: Floats, colour: Floats) -> Floats:
    return f32(canvas * (1 - cover[..., None]) + colour[:, None, None] * cover[..., None])


def draw(kind: str, key: Keys, digit: Ints) -> NDArray[np.uint8]:
    """Digits of a kind, uint8 [n, SIZE, SIZE, 3]."""
    n = len(key)
    py, px = pixels(n)
    middle = np.full(n, SIZE / 2, dtype=np.float32)
    x, y = middle + uniform(key, 11, -4, 4), middle + uniform(key, 12, -3, 3)
    slant = uniform(key, 13, -0.15, 0.3)
    if kind == "mnist":
        cover = _glyph(key, digit, x, y, uniform(key, 14, 13, 18), uniform(key, 15, 1.4, 2.8), slant)
        canvas = np.repeat(cover[..., None], 3, -1)
        grain = np.full(n, 0.01, np.float32)
    elif kind == "svhn":
        paper = hsv(uniform(key, 21), uniform(key, 22, 0.0, 0.6), uniform(key, 23, 0.15, 0.85))
        ink = hsv(uniform(key, 24), uniform(key, 25, 0.0, 0.7), uniform(key, 26, 0.1, 1.0))
        # Ink and paper differ in brightness, as on a house.
        ink = np.where((np.abs(ink.mean(-1) - paper.mean(-1)) < 0.25)[:, None], 1 - paper, ink)
        canvas = f32(paper[:, None, None] * (0.75 + 0.5 * lattice(key, 27, 5, 5))[..., None])
        size, width = uniform(key, 28, 12, 19), uniform(key, 29, 1.6, 3.2)
        for side in (-1, 1):
            other = (grid(key, 31 + side, 1)[:, 0] * 10).astype(np.int64)
            there = (uniform(key, 34 + side) < 0.7)[:, None, None]
            canvas = _over(canvas, _glyph(key, other, x + side * size * 1.5, y, size, width, slant) * there, ink)
        canvas = _over(canvas, _glyph(key, digit, x, y, size, width, slant), ink)
        grain = uniform(key, 36, 0.01, 0.06)
    else:
        desk = hsv(uniform(key, 41), uniform(key, 42, 0.1, 0.6), uniform(key, 43, 0.2, 0.7))
        canvas = f32(desk[:, None, None] * (0.7 + 0.6 * lattice(key, 44, 12, 12))[..., None])
        size, lean = uniform(key, 45, 8, 12), uniform(key, 46, -0.25, 0.25)[:, None, None]
        dx, dy = px - x[:, None, None], py - y[:, None, None]
        across, along = dx * np.cos(lean) + dy * np.sin(lean), dy * np.cos(lean) - dx * np.sin(lean)
        half = size[:, None, None]
        card = np.clip(0.5 - np.maximum(np.abs(across) - 0.95 * half, np.abs(along) - 1.35 * half), 0, 1)
        canvas = _over(canvas, f32(card), hsv(uniform(key, 47), 0.06, uniform(key, 48, 0.85, 1.0)))
        ink = hsv(uniform(key, 49), 0.8, uniform(key, 50, 0.05, 0.4))
        canvas = _over(canvas, _glyph(key, digit, x, y, size, uniform(key, 51, 1.1, 1.9), slant * 0.3), ink)
        grain = uniform(key, 52, 0.01, 0.05)
    out = canvas + normal(key, 104, SIZE, SIZE, 3) * grain[:, None, None, None]
    return np.asarray(np.clip(out * 255 + 0.5, 0, 255), dtype=np.uint8)
