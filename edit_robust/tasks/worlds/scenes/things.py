"""Boats, animals, things on a table and things in the air."""

from __future__ import annotations

import numpy as np

from edit_robust.tasks.worlds.scenes.noise import f32, hsv
from edit_robust.tasks.worlds.scenes.shapes import BLACK, GLASS, STEEL, WHITE, Pen, within


def sailboat(p: Pen) -> None:
    """A hull, a mast and two sails."""
    hull, sail = p.paint(), p.paint(saturation=(0.0, 0.7), value=(0.8, 1.0))
    high = p.pick(1.7, 2.1)
    p.add(p.box(-0.03, 0.03, 0.2, high), (0.35, 0.24, 0.15))
    p.add(p.polygon((-0.78, 0.42), (-0.07, 0.42), (-0.07, high - 0.04)), sail)
    p.add(p.polygon((0.07, 0.42), (p.pick(0.55, 0.8), 0.42), (0.07, high * 0.84)), p.paint(value=(0.7, 1.0)))
    p.add(p.polygon((-0.72, -0.02), (0.62, -0.02), (0.98, 0.34), (-0.92, 0.34)), hull)
    p.add(p.polygon((-0.90, 0.27), (0.90, 0.27), (0.97, 0.34), (-0.92, 0.34)), WHITE, outline=False)


def ship(p: Pen) -> None:
    """A container ship: a long dark hull, coloured boxes, a white bridge with a funnel."""
    hull = p.paint(value=(0.2, 0.6))
    roof = p.pick(0.78, 0.95)
    p.add(p.box(-0.72, -0.56, roof - 0.02, roof + 0.2), p.paint())
    p.add(p.box(-0.84, -0.42, 0.25, roof), WHITE)
    p.add(p.box(-0.78, -0.48, roof - 0.17, roof - 0.08), (0.25, 0.30, 0.38), outline=False)
    for i in range(4):
        x = -0.36 + 0.27 * i
        p.add(p.box(x, x + 0.25, 0.28, 0.46), p.paint())
        p.add(p.box(x, x + 0.25, 0.46, 0.46 + p.pick(0.02, 0.20)), p.paint())
    p.add(p.polygon((-0.86, -0.03), (0.74, -0.03), (1.02, 0.32), (-0.96, 0.32)), hull)
    p.add(p.polygon((-0.86, -0.03), (0.74, -0.03), (0.83, 0.07), (-0.89, 0.07)), (0.65, 0.16, 0.14), outline=False)


def cow(p: Pen) -> None:
    """A cow in profile: patched hide, four legs, horns, muzzle, tail."""
    brown = p.pick(0, 1)[:, 0, 0] < 0.35
    hide = np.where(brown[:, None], f32([0.62, 0.40, 0.24]), f32([0.93, 0.92, 0.90]))
    spot = np.where(brown[:, None], f32([0.92, 0.86, 0.78]), f32([0.12, 0.10, 0.10]))
    for x in (-0.55, -0.36, 0.24, 0.42):
        p.add(p.box(x - 0.07, x + 0.07, 0.0, 0.5), hide)
        p.add(p.box(x - 0.07, x + 0.07, 0.0, 0.08), BLACK, outline=False)
    p.add(p.stroke(-0.66, 0.88, -0.80, 0.42, 0.035), hide)
    p.add(p.oval(-0.3, 0.42, 0.14, 0.1), (0.93, 0.68, 0.68), outline=False)
    body = p.add(p.box(-0.68, 0.54, 0.42, 0.98, 0.2), hide)
    for x, y in ((-0.45, 0.85), (-0.02, 0.62), (0.33, 0.86)):
        patch = p.oval(x + p.pick(-0.1, 0.1), y, p.pick(0.12, 0.22), p.pick(0.10, 0.18))
        p.add(within(patch, body), spot, outline=False)
    p.add(p.stroke(0.66, 1.10, 0.60, 1.26, 0.035), (0.88, 0.84, 0.7))
    p.add(p.stroke(0.82, 1.10, 0.90, 1.24, 0.035), (0.88, 0.84, 0.7))
    p.add(p.stroke(0.56, 1.06, 0.46, 1.02, 0.06), hide)
    p.add(p.stroke(0.70, 1.0, 0.90, 0.78, 0.15), hide)
    p.add(p.disc(0.93, 0.75, 0.12), (0.90, 0.68, 0.64))
    p.add(p.disc(0.76, 1.0, 0.04), BLACK, outline=False)


def sheep(p: Pen) -> None:
    """A cloud of wool on thin dark legs, with a dark face."""
    shade = p.pick(0.78, 0.96)[:, 0, 0]
    wool = np.stack([shade, shade * 0.97, shade * 0.90], axis=-1)
    face = np.where(p.pick()[:, 0, 0][:, None] < 0.7, f32([0.13, 0.12, 0.12]), f32([0.75, 0.62, 0.5]))
    for x in (-0.42, -0.24, 0.18, 0.36):
        p.add(p.box(x - 0.055, x + 0.055, 0.0, 0.42), face)
    fleece = p.oval(-0.05, 0.68, 0.52, 0.30)
    size = p.pick(0.19, 0.24)
    for i in range(9):
        angle = 2 * np.pi * i / 9
        fleece = np.minimum(fleece, p.disc(-0.05 + 0.52 * np.cos(angle), 0.68 + 0.28 * np.sin(angle), size))
    p.add(fleece, wool)
    p.add(np.abs(p.disc(-0.25, 0.70, 0.13)) - 0.02, wool * 0.8, outline=False)
    p.add(np.abs(p.disc(0.12, 0.62, 0.13)) - 0.02, wool * 0.8, outline=False)
    p.add(p.stroke(0.60, 0.92, 0.74, 0.70, 0.14), face)
    p.add(p.oval(0.46, 0.94, 0.12, 0.06), face)
    p.add(p.oval(0.60, 1.05, 0.15, 0.10), wool)
    p.add(p.disc(0.66, 0.88, 0.03), WHITE, outline=False)


def giraffe(p: Pen) -> None:
    """Long legs, a long sloping neck, brown patches."""
    hide, spot = (0.90, 0.74, 0.38), (0.55, 0.30, 0.12)
    neck = p.pick(2.0, 2.35)
    for x in (-0.50, -0.34, 0.18, 0.34):
        p.add(p.box(x - 0.06, x + 0.06, 0.0, 0.95), hide)
    p.add(p.stroke(-0.58, 1.1, -0.70, 0.66, 0.03), spot)
    body = p.polygon((-0.60, 0.80), (0.46, 0.84), (0.48, 1.32), (-0.58, 1.08)) - 0.06
    p.add(body, hide)
    throat = p.add(p.stroke(0.34, 1.16, 0.66, neck, 0.13), hide)
    for x, y in ((-0.42, 0.98), (-0.12, 1.1), (0.2, 1.0), (0.05, 0.88), (0.32, 1.22)):
        p.add(within(p.disc(x + p.pick(-0.04, 0.04), y, 0.1), body), spot, outline=False)
    for t in (0.28, 0.5, 0.72, 0.92):
        p.add(within(p.disc(0.34 + 0.32 * t, 1.16 + (neck - 1.16) * t, 0.075), throat), spot, outline=False)
    p.add(p.stroke(0.62, neck + 0.02, 0.58, neck + 0.24, 0.035), spot)
    p.add(p.stroke(0.64, neck + 0.04, 0.96, neck - 0.10, 0.12), hide)
    p.add(p.disc(0.72, neck + 0.05, 0.035), BLACK, outline=False)


def mug(p: Pen) -> None:
    """A mug with a handle, an open rim and a band."""
    glaze = p.paint()
    high = p.pick(1.25, 1.6)
    p.add(np.abs(p.oval(0.66, high * 0.52, 0.34, high * 0.28)) - 0.08, glaze)
    p.add(p.box(-0.68, 0.68, 0.0, high, 0.14), glaze)
    p.add(p.box(-0.68, 0.68, high * 0.3, high * 0.48), p.paint(), outline=False)
    p.add(p.oval(0.0, high - 0.05, 0.66, 0.17), glaze * 0.6 + 0.35)
    p.add(p.oval(0.0, high - 0.07, 0.52, 0.11), (0.25, 0.14, 0.08), outline=False)


def bottle(p: Pen) -> None:
    """A wine bottle: body, shoulders, neck, cap and a label."""
    glass = hsv(p.pick(0.05, 0.45)[:, 0, 0], p.pick(0.4, 0.9)[:, 0, 0], p.pick(0.25, 0.65)[:, 0, 0])
    high = p.pick(2.5, 3.0)
    body = high * 0.58
    p.add(p.box(-0.17, 0.17, body, high, 0.03), glass)
    p.add(p.polygon((-0.46, body - 0.1), (0.46, body - 0.1), (0.17, body + 0.36), (-0.17, body + 0.36)), glass)
    p.add(p.box(-0.46, 0.46, 0.0, body, 0.08), glass)
    p.add(p.box(-0.20, 0.20, high - 0.22, high + 0.04, 0.03), p.paint())
    p.add(p.box(-0.46, 0.46, body * 0.25, body * 0.7), p.paint(saturation=(0.0, 0.5), value=(0.8, 1.0)))
    p.add(p.box(-0.32, -0.24, body * 0.1, body - 0.05, 0.03), glass * 0.4 + 0.6, outline=False)


def lamp(p: Pen) -> None:
    """A table lamp: foot, stem and a glowing shade."""
    shade = p.paint(saturation=(0.1, 0.7), value=(0.85, 1.0))
    metal = p.paint(value=(0.15, 0.6))
    high, wide = p.pick(1.9, 2.3), p.pick(0.62, 0.82)
    p.add(p.box(-0.06, 0.06, 0.05, high - 0.5), metal)
    p.add(p.disc(0.0, 0.42, p.pick(0.08, 0.2)), metal)
    p.add(p.oval(0.0, 0.08, 0.46, 0.11), metal)
    p.add(p.polygon((-wide, high - 0.75), (wide, high - 0.75), (0.32, high), (-0.32, high)), shade)
    p.add(
        p.polygon((-wide, high - 0.75), (wide, high - 0.75), (wide - 0.06, high - 0.65), (0.06 - wide, high - 0.65)),
        shade * 0.6,
        outline=False,
    )
    p.add(p.stroke(0.3, high - 0.75, 0.3, high - 1.05, 0.02), BLACK, outline=False)


def airplane(p: Pen) -> None:
    """An airliner: fuselage, tail fin, wing, engine and a row of windows."""
    skin = p.paint(saturation=(0.0, 0.25), value=(0.8, 1.0))
    trim = p.paint()
    p.add(p.polygon((-0.98, 0.50), (-0.66, 0.46), (-0.78, 0.92), (-0.98, 0.92)), trim)
    p.add(p.polygon((-0.15, 0.52), (0.18, 0.52), (-0.22, 0.86), (-0.36, 0.86)), skin * 0.75)
    p.add(np.maximum(p.oval(0.0, 0.42, 1.02, 0.19), -p.v - 9), skin)
    p.add(p.box(-0.9, 0.9, 0.36, 0.40), trim, outline=False)
    for i in range(7):
        p.add(p.disc(-0.55 + 0.18 * i, 0.49, 0.035), (0.15, 0.22, 0.35), outline=False)
    p.add(p.polygon((0.72, 0.46), (0.92, 0.46), (0.82, 0.54), (0.70, 0.55)), GLASS, outline=False)
    p.add(p.polygon((-0.90, 0.44), (-0.66, 0.44), (-0.92, 0.26), (-1.06, 0.26)), skin * 0.7)
    p.add(p.box(0.02, 0.28, 0.12, 0.24, 0.06), STEEL)
    p.add(p.polygon((-0.48, -0.05), (-0.34, -0.05), (0.24, 0.38), (-0.16, 0.38)), skin * 0.7)


def balloon(p: Pen) -> None:
    """A hot-air balloon: a striped envelope, ropes and a basket."""
    first, second = p.paint(saturation=(0.6, 1.0), value=(0.6, 1.0)), p.paint(value=(0.6, 1.0))
    top = p.pick(2.2, 2.45)
    middle = top - 0.9
    for x in (-0.16, 0.16):
        p.add(p.stroke(x, 0.3, x * 3.2, middle - 0.55, 0.025), (0.25, 0.18, 0.12), outline=False)
    bulb = np.minimum(
        p.disc(0.0, middle, 0.9),
        p.polygon((-0.28, 0.58), (0.28, 0.58), (0.76, middle - 0.45), (-0.76, middle - 0.45)),
    )
    p.add(bulb, first)
    for x, width in ((0.0, 0.17), (0.52, 0.12), (-0.52, 0.12)):
        p.add(within(p.oval(x, middle, width, 0.98), bulb), second, outline=False)
    p.add(p.box(-0.2, 0.2, 0.0, 0.3, 0.04), (0.50, 0.32, 0.16))
