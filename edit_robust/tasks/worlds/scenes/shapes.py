"""Signed-distance shapes, and the pen that collects the parts of an object.

A shape is its signed distance [n, SIZE, SIZE] in units of the object's half width, negative inside. Parts are painted
in order, so that photographs and all kinds of drawings come from the same description.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edit_robust.tasks.worlds.scenes.noise import SIZE, Floats, Keys, f32, hsv, uniform

Number = NDArray[Any] | float
Colour = NDArray[Any] | tuple[float, float, float]

BLACK = (0.06, 0.06, 0.08)
RUBBER = (0.09, 0.09, 0.10)
STEEL = (0.66, 0.67, 0.70)
GLASS = (0.55, 0.74, 0.86)
WHITE = (0.93, 0.93, 0.92)


def as_colour(colour: Colour, n: int) -> Floats:
    """A colour an image [n, 3]."""
    return np.broadcast_to(f32(colour), (n, 3))


@dataclass
class Part:
    """One painted shape: signed distance [n, SIZE, SIZE], colour [n, 3]."""

    distance: Floats
    colour: Floats
    outline: bool = True


@dataclass
class Pen:
    """Draws one object an image in its own coordinates: u to the right, v up, ground at v = 0, width about -1 .. 1."""

    key: Keys
    u: Floats
    v: Floats
    parts: list[Part] = field(default_factory=list)
    salt: int = 1000

    def pick(self, low: float = 0.0, high: float = 1.0) -> Floats:
        """A number an image, [n, 1, 1]."""
        self.salt += 1
        return uniform(self.key, self.salt, low, high)[:, None, None]

    def paint(
        self, saturation: tuple[float, float] = (0.35, 0.95), value: tuple[float, float] = (0.35, 0.95)
    ) -> Floats:
        """A random colour an image [n, 3]; one in five is a grey."""
        self.salt += 4
        s = uniform(self.key, self.salt, *saturation)
        s = np.where(uniform(self.key, self.salt - 1) < 0.2, s * 0.1, s)
        return hsv(uniform(self.key, self.salt - 2), s, uniform(self.key, self.salt - 3, *value))

    def add(self, distance: NDArray[Any], colour: Colour, outline: bool = True) -> Floats:
        """Paint a shape over what is there; returns it for clipping."""
        self.parts.append(Part(f32(distance), as_colour(colour, len(self.key)), outline))
        return self.parts[-1].distance

    def box(self, x0: Number, x1: Number, y0: Number, y1: Number, r: Number = 0.0) -> Floats:
        """A box with rounded corners."""
        dx = np.abs(self.u - (x0 + x1) / 2) - (x1 - x0) / 2 + r
        dy = np.abs(self.v - (y0 + y1) / 2) - (y1 - y0) / 2 + r
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return f32(outside + np.minimum(np.maximum(dx, dy), 0) - r)

    def disc(self, x: Number, y: Number, r: Number) -> Floats:
        """A circle."""
        return f32(np.hypot(self.u - x, self.v - y) - r)

    def oval(self, x: Number, y: Number, rx: Number, ry: Number) -> Floats:
        """An ellipse; the distance is exact on its axes and near enough elsewhere."""
        k = np.hypot((self.u - x) / rx, (self.v - y) / ry)
        return f32((k - 1) * np.minimum(rx, ry))

    def stroke(self, x0: Number, y0: Number, x1: Number, y1: Number, r: Number) -> Floats:
        """A line with round ends, r its half width."""
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((self.u - x0) * dx + (self.v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return f32(np.hypot(self.u - x0 - t * dx, self.v - y0 - t * dy) - r)

    def polygon(self, *points: tuple[Number, Number]) -> Floats:
        """A convex polygon, corners counter-clockwise; the distance is exact along its sides."""
        out: NDArray[Any] | None = None
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            dx, dy = x1 - x0, y1 - y0
            side = ((self.u - x0) * dy - (self.v - y0) * dx) / np.hypot(dx, dy)
            out = side if out is None else np.maximum(out, side)
        return f32(out)

    def wheel(self, x: Number, y: Number, r: Number, hub: Colour = STEEL) -> None:
        """A tyre and its hub."""
        self.add(self.disc(x, y, r), RUBBER)
        self.add(self.disc(x, y, r * 0.5), hub, outline=False)


def within(inner: Floats, outer: Floats, margin: float = 0.0) -> Floats:
    """The part of a shape that lies inside another one."""
    return np.maximum(inner, outer + margin)


def pixels(n: int) -> tuple[Floats, Floats]:
    """Pixel centres: y [1, SIZE, 1] and x [1, 1, SIZE]."""
    at = np.arange(SIZE, dtype=np.float32) + 0.5
    return at[None, :, None], at[None, None, :]
