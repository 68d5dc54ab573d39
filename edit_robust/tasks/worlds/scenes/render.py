"""From the parts of an object and a backdrop to a photograph or a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edit_robust.tasks.worlds.scenes import grounds, things, vehicles
from edit_robust.tasks.worlds.scenes.noise import SIZE, Floats, Ints, Keys, choice, f32, hsv, lattice, normal, uniform
from edit_robust.tasks.worlds.scenes.shapes import Part, Pen, pixels
from edit_robust.tasks.worlds.scenes.styles import snowfall


@dataclass(frozen=True)
class Kind:
    """A class: how to draw it, its size beside a car, where it usually stands, whether it flies."""

    draw: Callable[[Pen], None]
    size: float
    ground: tuple[tuple[int, float], ...]
    flies: bool = False


_ROAD = ((grounds.ROAD, 0.94), (grounds.GRASS, 0.06))
_FIELD = ((grounds.GRASS, 0.94), (grounds.ROAD, 0.06))
_AIR = ((grounds.GRASS, 0.4), (grounds.SEA, 0.3), (grounds.ROAD, 0.3))
KINDS: dict[str, Kind] = {
    "car": Kind(vehicles.car, 1.0, _ROAD),
    "van": Kind(vehicles.van, 0.92, _ROAD),
    "truck": Kind(vehicles.truck, 1.0, _ROAD),
    "bus": Kind(vehicles.bus, 1.1, _ROAD),
    "tractor": Kind(vehicles.tractor, 0.82, _FIELD),
    "motorbike": Kind(vehicles.motorbike, 0.85, _ROAD),
    "sailboat": Kind(things.sailboat, 0.7, ((grounds.SEA, 1.0),)),
    "ship": Kind(things.ship, 1.1, ((grounds.SEA, 1.0),)),
    "cow": Kind(things.cow, 0.9, _FIELD),
    "sheep": Kind(things.sheep, 0.85, _FIELD),
    "giraffe": Kind(things.giraffe, 0.66, _FIELD),
    "mug": Kind(things.mug, 0.6, ((grounds.TABLE, 1.0),)),
    "bottle": Kind(things.bottle, 0.52, ((grounds.TABLE, 1.0),)),
    "lamp": Kind(things.lamp, 0.58, ((grounds.TABLE, 1.0),)),
    "airplane": Kind(things.airplane, 1.1, _AIR, flies=True),
    "balloon": Kind(things.balloon, 0.62, _AIR, flies=True),
}
CLASSES = tuple(KINDS)
VEHICLES = CLASSES[:6]


@dataclass(frozen=True)
class Layout:
    """Where things are, an entry an image: ground concept, horizon, and the object's centre, foot, scale and pose."""

    ground: Ints
    horizon: Floats
    x: Floats
    foot: Floats
    scale: Floats
    flip: Floats
    tilt: Floats


def layout(key: Keys, labels: Ints, hard: bool = False, snow: bool = False) -> Layout:
    """Draw the layout of every image. Hard scenes are smaller and stand on any ground."""
    kinds = [KINDS[CLASSES[k]] for k in labels]
    ground = np.zeros(len(key), dtype=np.int64)
    for k in np.unique(labels):
        options = KINDS[CLASSES[k]].ground
        at = labels == k
        ground[at] = np.asarray([g for g, _ in options])[choice(key[at], 1, [w for _, w in options])]
    if hard:
        ground = np.where(uniform(key, 10) < 0.35, choice(key, 9, (1, 1, 1, 1)), ground)
    if snow:
        ground = np.full(len(key), grounds.SNOW)
    flies = np.asarray([k.flies for k in kinds])
    horizon = np.where(flies, uniform(key, 2, 36, 44), uniform(key, 2, 17, 29))
    # Squared: more small objects than large ones.
    spread = uniform(key, 3) ** (2.2 if hard else 1.5)
    size = 6.5 + 5.0 * spread if hard else 9.5 + 9.0 * spread
    scale = size * np.asarray([k.size for k in kinds])
    x = scale * 0.75 + uniform(key, 4) * (SIZE - 1.5 * scale)
    low, high = np.where(flies, 16.0, horizon + 3.0), np.where(flies, horizon - 2.0, SIZE - 1.5)
    foot = low + uniform(key, 5) * (high - low)
    flip = np.where(uniform(key, 6) < 0.5, -1.0, 1.0)
    tilt = np.where(flies, uniform(key, 7, -0.22, 0.22), uniform(key, 7, -0.04, 0.04))
    return Layout(ground, *(f32(a) for a in (horizon, x, foot, scale, flip, tilt)))


def objects(key: Keys, labels: Ints, at: Layout, wobble: float = 0.0) -> Iterator[tuple[Ints, list[Part], Floats]]:
    """For each class present: its rows, its parts in painting order, and its scale [rows, 1, 1] in pixels."""
    y, x = pixels(len(key))
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        own, scale = key[rows], at.scale[rows][:, None, None]
        dx, dy = x - at.x[rows][:, None, None], at.foot[rows][:, None, None] - y
        if wobble:
            dx = dx + wobble * (lattice(own, 201, 12, 12) - 0.5)
            dy = dy + wobble * (lattice(own, 202, 12, 12) - 0.5)
        c, s = np.cos(at.tilt[rows])[:, None, None], np.sin(at.tilt[rows])[:, None, None]
        stretch = uniform(own, 203, 0.88, 1.12)[:, None, None]
        u = (dx * c + dy * s) / scale * at.flip[rows][:, None, None]
        pen = Pen(own, np.asarray(u, np.float32), np.asarray((dy * c - dx * s) / scale * stretch, np.float32))
        KINDS[CLASSES[k]].draw(pen)
        yield rows, pen.parts, scale


def over(canvas: Floats, alpha: Floats, colour: Floats) -> Floats:
    """Paint colour [n, 3] over canvas [n, SIZE, SIZE, 3] with coverage alpha [n, SIZE, SIZE]."""
    a = alpha[..., None]
    return f32(canvas * (1 - a) + colour[:, None, None] * a)


def cutouts(key: Keys, labels: Ints, at: Layout) -> tuple[Floats, Floats]:
    """Objects alone: premultiplied colour [n, SIZE, SIZE, 3] and coverage [n, SIZE, SIZE]."""
    colour = np.zeros((len(key), SIZE, SIZE, 3), dtype=np.float32)
    cover = np.zeros((len(key), SIZE, SIZE), dtype=np.float32)
    y, _ = pixels(len(key))
    for rows, parts, scale in objects(key, labels, at):
        paint, alpha = colour[rows], cover[rows]
        for part in parts:
            a = np.clip(0.5 - part.distance * scale, 0, 1)
            paint, alpha = over(paint, a, part.colour), alpha * (1 - a) + a
        height = (at.foot[rows][:, None, None] - y) / scale
        light = 0.82 + 0.24 * np.clip(height, 0, 1.2) + 0.1 * (lattice(key[rows], 211, 16, 16) - 0.5)
        colour[rows], cover[rows] = paint * light[..., None], alpha
    return colour, cover


def shadows(at: Layout) -> Floats:
    """How much the object darkens the ground [n, SIZE, SIZE], 1 where it does not."""
    y, x = pixels(len(at.x))
    s = at.scale[:, None, None]
    k = np.hypot((x - at.x[:, None, None]) / (1.05 * s), (y - at.foot[:, None, None]) / (0.16 * s + 0.6))
    return f32(1 - 0.45 * np.clip(1.5 - k, 0, 1))


def develop(key: Keys, canvas: Floats, hard: bool = False, snow: bool = False) -> NDArray[np.uint8]:
    """The camera: exposure, contrast, tint and sensor noise; [n, SIZE, SIZE, 3] in 0 .. 1 to uint8."""
    contrast = uniform(key, 401, 0.4, 0.8) if hard else uniform(key, 401, 0.65, 1.08)
    level = uniform(key, 402, 0.42, 0.58)
    tint = 1 + 0.08 * (np.stack([uniform(key, 403 + c) for c in range(3)], axis=-1) - 0.5)
    if snow:
        contrast = contrast * 0.95
        tint = tint * f32([0.93, 0.98, 1.06])
    spread = uniform(key, 406) ** 2
    sigma = 0.02 + 0.08 * spread if hard else 0.006 + 0.06 * spread
    flat = f32((canvas - 0.5) * contrast[:, None, None, None] + level[:, None, None, None])
    flat = flat * tint.astype(np.float32)[:, None, None] + normal(key, 102, SIZE, SIZE, 3) * sigma[:, None, None, None]
    return np.asarray(np.clip(flat * 255 + 0.5, 0, 255), dtype=np.uint8)


def pole(key: Keys, share: float) -> tuple[Floats, Floats]:
    """An upright thing in front of the scene: coverage [n, SIZE, SIZE] and colour [n, 3]."""
    _, x = pixels(len(key))
    middle, half = uniform(key, 501, 2, SIZE - 2)[:, None, None], uniform(key, 502, 0.8, 2.8)[:, None, None]
    there = (uniform(key, 503) < share)[:, None, None] & (np.abs(x - middle) < half)
    colour = hsv(uniform(key, 504), uniform(key, 505, 0.05, 0.5), uniform(key, 506, 0.3, 0.85))
    return np.broadcast_to(there, (len(key), SIZE, SIZE)).astype(np.float32), colour


@dataclass(frozen=True)
class Shot:
    """A rendered batch: images uint8 [n, SIZE, SIZE, 3], what a pixel shows (-1 an object or pole), ground shading,
    and the pixels [n] that the object visibly covers."""

    images: NDArray[np.uint8]
    label: Ints
    shade: Floats
    area: Floats


def photograph(key: Keys, labels: Ints, hard: bool = False, snow: bool = False) -> Shot:
    """Scenes as a camera sees them."""
    at = layout(key, labels, hard, snow)
    label, _ = grounds.regions(key, at.ground, at.horizon)
    shade = np.where(label == at.ground[:, None, None], shadows(at), np.float32(1.0))
    canvas = grounds.backdrop(key, label, at.horizon) * shade[..., None]
    colour, cover = cutouts(key, labels, at)
    if snow:
        canvas, colour = _winter(key, canvas, label, colour, cover)
    # Haze: the object takes on some of what is behind it.
    haze = uniform(key, 411, 0.15, 0.5) if hard else uniform(key, 411, 0.0, 0.3)
    seen = cover * (1 - haze[:, None, None])
    canvas = canvas * (1 - seen[..., None]) + colour * (1 - haze)[:, None, None, None]
    pillar, paint = pole(key, 0.5 if hard else 0.22)
    canvas = over(canvas, pillar, paint)
    if snow:
        fog = uniform(key, 412, 0.0, 0.16)
        canvas = over(
            canvas,
            np.broadcast_to(fog[:, None, None], cover.shape),
            np.tile(f32([[0.74, 0.78, 0.84]]), (len(key), 1)),
        )
        canvas = over(canvas, snowfall(key, uniform(key, 413, 0.0, 0.6)), np.ones((len(key), 3), np.float32) * 0.97)
    label = np.where((cover > 0) | (pillar > 0), -1, label)
    return Shot(develop(key, canvas, hard, snow), label, f32(shade), (cover * (1 - pillar)).sum((1, 2)))


def _winter(key: Keys, canvas: Floats, label: Ints, colour: Floats, cover: Floats) -> tuple[Floats, Floats]:
    """Snow on trees, mountains and walls, a white sky, and a white cap on the object."""
    white = f32([0.93, 0.95, 0.98])
    behind = np.isin(label, (grounds.TREES, grounds.MOUNTAIN))
    lying = np.clip((lattice(key, 421, 20, 16) - uniform(key, 422, 0.4, 0.7)[:, None, None]) * 2.5, 0, 0.75) * behind
    canvas = canvas * (1 - lying[..., None]) + white * lying[..., None]
    dull = uniform(key, 423, 0.1, 0.8)[:, None, None] * (label == grounds.SKY)
    canvas = canvas * (1 - dull[..., None]) + dull[..., None] * f32([0.80, 0.83, 0.87])
    above = np.zeros_like(cover)
    thick = uniform(key, 424, 0.0, 2.0)
    for shift in (1, 2):
        drop = np.zeros_like(cover)
        drop[:, shift:] = cover[:, :-shift]
        above = np.where((thick >= shift)[:, None, None], np.maximum(above, cover - drop), above)
    cap = np.clip(above, 0, 1)[..., None]
    return f32(canvas), f32(colour * (1 - cap) + white * cap)


DRAWINGS = ("sketch", "cartoon", "silhouette", "blueprint")


def drawing(key: Keys, labels: Ints, kind: str) -> NDArray[np.uint8]:
    """The same classes drawn: uint8 [n, SIZE, SIZE, 3]."""
    n = len(key)
    at = layout(key, labels)
    light = hsv(uniform(key, 601), uniform(key, 602, 0.0, 0.14), uniform(key, 603, 0.82, 1.0))
    ink = hsv(uniform(key, 604), uniform(key, 605, 0.0, 0.5), uniform(key, 606, 0.05, 0.25))
    weight = uniform(key, 607, 0.9, 1.5)[:, None, None]
    y, x = pixels(n)
    paper = np.tile(light[:, None, None], (1, SIZE, SIZE, 1))
    if kind == "cartoon":
        label, _ = grounds.regions(key, at.ground, at.horizon)
        scene = grounds.backdrop(key, label, at.horizon)
        mean = np.stack([np.where((label == c)[..., None], _mean(scene, label == c), 0) for c in range(8)]).sum(0)
        paper = np.floor(np.clip(mean * 1.3, 0, 1) * 4 + 0.5) / 4
    elif kind == "blueprint":
        light = hsv(uniform(key, 601, 0.58, 0.65), 0.85, uniform(key, 603, 0.4, 0.65))
        ink = np.tile(f32([[0.88, 0.93, 1.0]]), (n, 1))
        lines = ((x.astype(int) % 8 == 0) | (y.astype(int) % 8 == 0)) * np.float32(0.10)
        paper = light[:, None, None] + np.broadcast_to(lines[..., None], (n, SIZE, SIZE, 1))
    elif kind == "sketch":
        level = (np.abs(y - at.foot[:, None, None] - lattice(key, 608, 2, 6)[:, :1] * 2) < 0.55) * np.float32(0.55)
        paper = over(np.asarray(paper, np.float32), np.broadcast_to(level, (n, SIZE, SIZE)), ink)
    paper = f32(paper)
    for rows, parts, scale in objects(key, labels, at, wobble=2.2 if kind == "sketch" else 0.0):
        page, own = paper[rows], ink[rows]
        for part in parts:
            d = part.distance * scale
            fill = {"cartoon": np.clip(np.round(part.colour * 3) / 3, 0, 1), "silhouette": own}.get(kind, light[rows])
            line = np.clip(weight[rows] * (0.5 if part.outline else 0.25) + 0.25 - np.abs(d), 0, 1)
            page = over(page, np.clip(0.5 - d, 0, 1), np.asarray(fill, np.float32))
            page = over(page, line if kind != "silhouette" else np.clip(0.5 - d, 0, 1), own)
        paper[rows] = page
    grain = uniform(key, 609, 0.0, 0.0 if kind == "cartoon" else 0.04)[:, None, None, None]
    return np.asarray(np.clip((paper + normal(key, 103, SIZE, SIZE, 3) * grain) * 255 + 0.5, 0, 255), dtype=np.uint8)


def _mean(scene: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Mean colour of a region, [n, 1, 1, 3]."""
    total = np.maximum(mask.sum((1, 2)), 1)[:, None]
    return np.asarray((scene * mask[..., None]).sum((1, 2)) / total, np.float32)[:, None, None]
