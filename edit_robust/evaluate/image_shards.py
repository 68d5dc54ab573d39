"""Images in shards: how many at once, decoded and corrupted ahead of the model that answers them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edit_robust.core.ahead import ahead, gathered, hands
from edit_robust.core.images import ImageSet, Pixels
from edit_robust.shifts.images.variants import Shifting, Variant

if TYPE_CHECKING:
    from edit_robust.models.base import LogitsAlong

#: A shard, a variant, and the shard's images under it, uint8 [n, size, size, 3].
Shown = Generator[tuple["Shard", Variant, np.ndarray], None, None]

#: Memory for the pixels and answers of a shard, in bytes. Results do not depend on it.
SHARD_BYTES = 256 << 20
#: Copies of a shard's pixels: the images, a variant of them, the next one, and one in the making.
COPIES = 4
#: From this many pixels a side on, images are made ready in a thread beside the model; handing smaller ones over costs
#: more than it saves.
AHEAD_FROM = 96


@dataclass(frozen=True)
class Shard:
    """Images `rows` of set number `images`."""

    images: int
    rows: range


def shards(sets: Sequence[ImageSet], n: int) -> list[Shard]:
    """All sets in shards of at most n images."""
    return [Shard(i, range(k, min(k + n, len(x)))) for i, x in enumerate(sets) for k in range(0, len(x), n)]


def shard_size(size: int, batch: int, answers: int, limit: int) -> int:
    """How many images a shard has: whole batches, so that batches are the same whatever the shards, at least one.

    size: of the images.   batch: images that the model runs side by side.   answers: bytes of all points' answers to
    one image.   limit: bytes for the pixels of the images with their copies, and for their answers under one variant.
    """
    image = COPIES * 3 * size * size + answers
    return max(1, limit // (image * batch)) * batch


def shown(
    model: LogitsAlong, shifting: Shifting, sets: Sequence[ImageSet], jobs: Sequence[tuple[Shard, Sequence[Variant]]]
) -> Shown:
    """Every shard under each of its variants, as the model shall see it; made ahead where images are large, or where
    there are workers: as many threads decode a shard's images as processes corrupt them.

    A shard is decoded once. Close the iterator when leaving it early: its thread may be at work.
    """
    found = _shown(model, shifting, sets, jobs)
    return ahead(found) if model.size >= AHEAD_FROM or shifting.workers else found


def _shown(
    model: LogitsAlong, shifting: Shifting, sets: Sequence[ImageSet], jobs: Sequence[tuple[Shard, Sequence[Variant]]]
) -> Shown:
    with hands(shifting.workers) as pool:
        for shard, variants in jobs:
            images = sets[shard.images]
            pixels = gathered(partial(_decoded, model, images), shard.rows if variants else (), pool)
            for variant in variants:
                yield shard, variant, shifting.apply(variant, images, shard.rows, pixels)


def _decoded(model: LogitsAlong, images: ImageSet, row: int) -> Pixels:
    return model.crop(images.load(row))
