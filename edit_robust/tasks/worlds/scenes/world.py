"""The scene world: small generated photographs of 16 classes on textured grounds, with exact concept masks.

Image i of a split is a pure function of (split, seed, i): it is the same alone and in any batch, and splits are
independent streams. See docs/scene-world.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edit_robust.core.errors import UserError, nearest
from edit_robust.tasks.worlds.scenes import grounds
from edit_robust.tasks.worlds.scenes import render as rendering
from edit_robust.tasks.worlds.scenes.digits import DIGITS
from edit_robust.tasks.worlds.scenes.digits import draw as draw_digits
from edit_robust.tasks.worlds.scenes.grounds import CONCEPTS
from edit_robust.tasks.worlds.scenes.noise import SIZE, Floats, Ints, Keys, choice, keys, mix, salted
from edit_robust.tasks.worlds.scenes.render import CLASSES, DRAWINGS, VEHICLES
from edit_robust.tasks.worlds.scenes.styles import N_VARIANTS, STYLES, texture

__all__ = [
    "CLASSES", "CONCEPTS", "DIGITS", "DRAWINGS", "N_VARIANTS", "SIZE", "SPLITS", "STYLES", "VEHICLES", "Scenes",
    "digits", "filtered", "render", "renditions", "snow_photographs", "styled", "with_concept",
]  # fmt: skip

Images = NDArray[np.uint8]
SPLITS = ("train", "val", "test", "search", "moments", "hard")
MIN_AREA = 0.05  # a concept counts as present from this share of the pixels on
_CHUNK = 64  # keeps the arrays of a batch inside the processor's cache
_SNOW, _DRAWN = 20, 40  # first stream numbers of the other kinds of images
_FILTERED = Path(__file__).parents[3] / "assets" / "scene-world" / "filtered.json"


@dataclass(frozen=True)
class Scenes:
    """Photographs with what is known about them.

    images: uint8 [n, SIZE, SIZE, 3]; labels: [n] into CLASSES; index: [n]; masks: concept -> bool [n, SIZE, SIZE],
    exactly the pixels that show nothing but the concept; concepts: bool [n, len(CONCEPTS)], masks of 5 % and more;
    object_area: [n], pixels that show the object. The rest is what `styled` needs.
    """

    images: Images
    labels: Ints
    index: Ints
    masks: dict[str, NDArray[np.bool_]]
    concepts: NDArray[np.bool_]
    object_area: Floats
    key: Keys
    shade: Floats

    def __len__(self) -> int:
        return len(self.images)


def _stream(split: str) -> int:
    if split not in SPLITS:
        raise UserError(f"no split {split!r}; {nearest(split, SPLITS)}")
    return SPLITS.index(split)


def _numbers(index: Sequence[int] | Ints) -> Ints:
    return np.asarray(index, dtype=np.int64).reshape(-1)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def label_of(index: Sequence[int] | Ints) -> Ints:
    """The class of every image [n]: classes take turns, so every split is balanced."""
    return _numbers(index) % len(CLASSES)


def render(split: str, index: Sequence[int] | Ints, seed: int = 0) -> Scenes:
    """Photographs `index` of a split."""
    at = _numbers(index)
    key, labels = keys(_stream(split), seed, at), label_of(at)
    shots = [rendering.photograph(key[c], labels[c], hard=split == "hard") for c in _chunks(len(at))]
    empty = np.zeros((0, SIZE, SIZE), dtype=np.float32)
    region = np.concatenate([s.label for s in shots] or [empty.astype(np.int64)])
    masks = {name: region == i for i, name in enumerate(CONCEPTS)}
    area = np.stack([m.mean((1, 2)) for m in masks.values()], axis=-1)
    return Scenes(
        images=np.concatenate([s.images for s in shots] or [np.zeros((0, SIZE, SIZE, 3), np.uint8)]),
        labels=labels,
        index=at,
        masks=masks,
        concepts=area >= MIN_AREA,
        object_area=np.concatenate([s.area for s in shots] or [empty.sum((1, 2))]),
        key=key,
        shade=np.concatenate([s.shade for s in shots] or [empty]),
    )


def styled(
    scenes: Scenes, concept: str, style: str, seed: int = 0, variant: int | Sequence[int] | None = None
) -> Images:
    """The scenes with a concept in another style, x (1 - m) + stylised m: uint8 [n, SIZE, SIZE, 3].

    Pixels outside the concept's mask are those of `scenes`, to the bit. `variant` is one of N_VARIANTS, or several
    from which every image draws one; by default all of them. The style's texture lies in the scene: it takes on the
    object's shadow and passes through the same camera.
    """
    for name, known in ((concept, CONCEPTS), (style, STYLES)):
        if name not in known:
            raise UserError(f"neither a concept nor a style: {name!r}; {nearest(name, known)}")
    options = [variant] if isinstance(variant, int) else list(range(N_VARIANTS) if variant is None else variant)
    number = STYLES.index(style)
    out = scenes.images.copy()
    # The pattern depends on the scene and the seed, never on the concept: a style is the same wherever it lies.
    key = mix(scenes.key + keys(60 + number, seed, [0])[0])
    drawn = np.asarray(options)[choice(key, 7, [1.0] * len(options))]
    for v in np.unique(drawn):
        rows = np.flatnonzero(drawn == v)
        for c in _chunks(len(rows)):
            r = rows[c]
            mask = scenes.masks[concept][r][..., None]
            surface = texture(style, salted(key[r], 8), int(v)) * scenes.shade[r][..., None]
            out[r] = np.where(mask, rendering.develop(scenes.key[r], surface), out[r])
    return out


def with_concept(
    split: str, concept: str, n: int, seed: int = 0, labels: Sequence[str] | None = None, start: int = 0
) -> Ints:
    """The first n indices from `start` on whose scenes show the concept on 5 % of the pixels or more, as [n]."""
    if concept not in CONCEPTS:
        raise UserError(f"no concept {concept!r}; {nearest(concept, CONCEPTS)}")
    wanted = np.arange(len(CLASSES)) if labels is None else np.asarray([CLASSES.index(k) for k in labels])
    number, found, at = CONCEPTS.index(concept), np.zeros(0, np.int64), start
    while len(found) < n:
        if at - start > 200 * n + 20_000:
            raise UserError(f"{split}: {len(found)} scenes with {concept} among {at - start}, {n} were asked for")
        index = np.arange(at, at + 512)
        at += 512
        index = index[np.isin(label_of(index), wanted)]
        # Most scenes are ruled out by their layout, before anything is drawn.
        key = keys(_stream(split), seed, index)
        place = rendering.layout(key, label_of(index), hard=split == "hard")
        region, _ = grounds.regions(key, place.ground, place.horizon)
        index = index[(region == number).mean((1, 2)) >= MIN_AREA]
        found = np.concatenate([found, index[render(split, index, seed).concepts[:, number]]])
    return found[:n]


def snow_photographs(split: str, index: Sequence[int] | Ints, seed: int = 0) -> tuple[Images, Ints]:
    """Photographs of the vehicles in winter, rendered as such: images uint8 [n, SIZE, SIZE, 3] and labels [n]."""
    at = _numbers(index)
    key, labels = keys(_SNOW + _stream(split), seed, at), at % len(VEHICLES)
    images = [rendering.photograph(key[c], labels[c], snow=True).images for c in _chunks(len(at))]
    return np.concatenate(images or [np.zeros((0, SIZE, SIZE, 3), np.uint8)]), labels


def renditions(split: str, index: Sequence[int] | Ints, seed: int = 0, kind: str | None = None) -> tuple[Images, Ints]:
    """Drawings of the classes, images uint8 [n, SIZE, SIZE, 3] and labels [n]; without `kind` the kinds take turns."""
    at = _numbers(index)
    if kind is not None and kind not in DRAWINGS:
        raise UserError(f"no kind of drawing {kind!r}; {nearest(kind, DRAWINGS)}")
    key, labels = keys(_DRAWN + _stream(split), seed, at), label_of(at)
    chosen = at // len(CLASSES) % len(DRAWINGS) if kind is None else np.full(len(at), DRAWINGS.index(kind))
    out = np.zeros((len(at), SIZE, SIZE, 3), np.uint8)
    for number in np.unique(chosen):
        rows = np.flatnonzero(chosen == number)
        for c in _chunks(len(rows)):
            out[rows[c]] = rendering.drawing(key[rows[c]], labels[rows[c]], DRAWINGS[number])
    return out, labels


def filtered(index: Sequence[int] | Ints | None = None) -> tuple[Images, Ints]:
    """The adversarially filtered set, or entries `index` of it: images uint8 [n, SIZE, SIZE, 3] and labels [n].

    Hard scenes that a majority of small networks, independent of the shipped ones, got wrong; only their indices are
    stored.
    """
    stored = json.loads(_FILTERED.read_text())
    chosen = np.asarray(stored["index"], dtype=np.int64)
    scenes = render("hard", chosen if index is None else chosen[_numbers(index)], stored["seed"])
    return scenes.images, scenes.labels


def digits(kind: str, split: str, index: Sequence[int] | Ints, seed: int = 0) -> tuple[Images, Ints]:
    """Digits of a kind of scene_digits.DIGITS: images uint8 [n, SIZE, SIZE, 3] and labels [n], which take turns."""
    if kind not in DIGITS:
        raise UserError(f"no kind of digits {kind!r}; {nearest(kind, DIGITS)}")
    at = _numbers(index)
    key, labels = keys(80 + 10 * DIGITS.index(kind) + _stream(split), seed, at), at % 10
    images = [draw_digits(kind, key[c], labels[c]) for c in _chunks(len(at))]
    return np.concatenate(images or [np.zeros((0, SIZE, SIZE, 3), np.uint8)]), labels
