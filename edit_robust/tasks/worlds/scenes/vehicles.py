"""The six road vehicles of the scene world, seen from the side and facing right."""

from __future__ import annotations

import numpy as np

from edit_robust.tasks.worlds.scenes.shapes import BLACK, GLASS, RUBBER, STEEL, WHITE, Pen, within

YELLOW, RED = (0.98, 0.90, 0.45), (0.80, 0.12, 0.12)


def car(p: Pen) -> None:
    """A saloon: low body, glazed cabin, two wheels."""
    body = p.paint()
    top, waist = p.pick(0.66, 0.80), p.pick(0.38, 0.46)
    back, front = p.pick(-0.80, -0.55), p.pick(0.50, 0.70)
    p.add(p.polygon((back, waist - 0.05), (front, waist - 0.05), (front - 0.32, top), (back + 0.24, top)), body)
    sill = top - 0.07
    p.add(p.polygon((back + 0.12, waist), (-0.06, waist), (-0.06, sill), (back + 0.28, sill)), GLASS, outline=False)
    p.add(p.polygon((0.02, waist), (front - 0.1, waist), (front - 0.34, sill), (0.02, sill)), GLASS, outline=False)
    p.add(p.box(-1.0, 1.0, 0.13, waist, 0.11), body)
    p.add(p.disc(0.93, 0.33, 0.06), YELLOW, outline=False)
    p.add(p.box(-1.0, -0.92, 0.29, 0.38, 0.02), RED, outline=False)
    r = p.pick(0.17, 0.22)
    p.wheel(-0.58, r - 0.01, r)
    p.wheel(0.58, r - 0.01, r)


def van(p: Pen) -> None:
    """A delivery van: one tall box with a sloping nose."""
    body = p.paint()
    top, nose = p.pick(0.92, 1.10), p.pick(0.44, 0.54)
    shell = p.polygon((-0.95, 0.13), (0.72, 0.13), (0.72, nose + 0.06), (0.46, top), (-0.95, top))
    bonnet = p.polygon((0.40, 0.13), (1.0, 0.13), (1.0, nose - 0.04), (0.72, nose + 0.08), (0.40, nose + 0.08))
    p.add(np.minimum(shell, bonnet), body)
    p.add(p.polygon((0.28, nose + 0.08), (0.66, nose + 0.08), (0.46, top - 0.09), (0.28, top - 0.09)), GLASS)
    p.add(p.box(-0.85, 0.18, 0.30, 0.36), p.paint(), outline=False)
    p.add(p.box(0.20, 0.23, 0.2, top - 0.1), BLACK, outline=False)
    p.add(p.disc(0.94, 0.34, 0.06), YELLOW, outline=False)
    r = p.pick(0.18, 0.22)
    p.wheel(-0.55, r - 0.01, r)
    p.wheel(0.60, r - 0.01, r)


def truck(p: Pen) -> None:
    """A lorry: a cargo box and a separate cab with a gap between them."""
    load, cab = p.paint(), p.paint()
    top, roof = p.pick(0.92, 1.15), p.pick(0.72, 0.86)
    p.add(p.box(-1.0, 0.95, 0.15, 0.27), BLACK)
    cargo = p.add(p.box(-1.0, 0.30, 0.27, top, 0.02), load)
    for x in (-0.7, -0.38, -0.06):
        p.add(within(p.box(x - 0.015, x + 0.015, 0.3, top), cargo), (0.3, 0.3, 0.3), outline=False)
    p.add(p.polygon((0.40, 0.18), (1.0, 0.18), (1.0, 0.46), (0.86, roof), (0.40, roof)), cab)
    p.add(p.polygon((0.60, 0.46), (0.94, 0.46), (0.82, roof - 0.07), (0.60, roof - 0.07)), GLASS, outline=False)
    p.add(p.disc(0.95, 0.28, 0.05), YELLOW, outline=False)
    r = p.pick(0.17, 0.20)
    for x in (-0.76, -0.36, 0.68):
        p.wheel(x, r - 0.01, r)


def bus(p: Pen) -> None:
    """A city bus: one long box with a row of windows and a door."""
    body = p.paint()
    top, waist = p.pick(0.72, 0.86), p.pick(0.40, 0.46)
    p.add(p.box(-1.0, 1.0, 0.13, top, 0.08), body)
    p.add(p.box(-0.98, 0.98, 0.24, 0.30), p.paint(), outline=False)
    for i in range(5):
        x = -0.88 + 0.29 * i
        p.add(p.box(x, x + 0.22, waist, top - 0.10, 0.02), GLASS)
    p.add(p.box(0.60, 0.78, 0.16, top - 0.10), (0.35, 0.45, 0.52))
    p.add(p.box(0.84, 1.0, waist - 0.02, top - 0.08), GLASS, outline=False)
    p.add(p.disc(0.95, 0.2, 0.045), YELLOW, outline=False)
    r = p.pick(0.14, 0.17)
    p.wheel(-0.60, r - 0.01, r)
    p.wheel(0.42, r - 0.01, r)


def tractor(p: Pen) -> None:
    """A farm tractor: a huge rear wheel, a small front wheel, a bonnet and a tall cab."""
    body, hub = p.paint(), p.paint(value=(0.7, 1.0))
    big, small = p.pick(0.40, 0.47), p.pick(0.21, 0.26)
    hood = p.pick(0.70, 0.80)
    roof = p.pick(1.25, 1.42)
    p.add(p.box(0.46, 0.53, hood, hood + p.pick(0.25, 0.42)), BLACK)
    p.add(p.polygon((-0.72, 0.55), (0.06, 0.55), (-0.02, roof), (-0.60, roof)), body)
    p.add(p.polygon((-0.60, 0.70), (-0.06, 0.70), (-0.11, roof - 0.09), (-0.52, roof - 0.09)), GLASS)
    p.add(p.box(-0.70, 0.06, roof - 0.06, roof + 0.03, 0.03), body)
    p.add(p.box(-0.30, 0.88, 0.34, hood, 0.07), body)
    p.add(p.box(0.80, 0.89, 0.44, hood - 0.08), STEEL, outline=False)
    p.wheel(-0.45, big, big, hub)
    p.wheel(0.62, small, small, hub)


def motorbike(p: Pen) -> None:
    """A motorcycle: two open wheels, an engine between them, tank, saddle and handlebar."""
    body = p.paint()
    r = p.pick(0.32, 0.38)
    for x in (-0.62, 0.62):
        p.add(np.abs(p.disc(x, r, r - 0.05)) - 0.065, RUBBER)
        p.add(p.disc(x, r, 0.08), STEEL, outline=False)
    high = p.pick(0.92, 1.08)
    p.add(p.stroke(0.62, r, 0.34, high, 0.045), STEEL)
    p.add(p.stroke(0.36, high, 0.14, high + 0.08, 0.04), BLACK)
    p.add(p.stroke(-0.62, r, -0.02, 0.30, 0.05), STEEL)
    p.add(p.stroke(-0.60, r + 0.02, -0.20, 0.66, 0.04), STEEL)
    p.add(p.box(-0.22, 0.24, 0.20, 0.56, 0.10), (0.32, 0.32, 0.35))
    p.add(p.stroke(-0.10, 0.24, -0.80, 0.20, 0.045), STEEL)
    p.add(p.oval(0.14, 0.74, 0.28, 0.15), body)
    p.add(p.polygon((-0.72, 0.78), (-0.62, 0.68), (0.0, 0.66), (-0.04, 0.78)), BLACK)
    p.add(p.disc(0.47, high - 0.18, 0.09), WHITE)
