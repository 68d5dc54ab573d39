"""Which variants of an image set are evaluated, and how their pixels are made: once, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from edit_robust.core import UserError
from edit_robust.core.image_files import read_image
from edit_robust.core.images import ImageSet, Pixels
from edit_robust.core.options import Aside
from edit_robust.shifts.images.benchmark import ALL, corrupt_many, worker_pool
from edit_robust.shifts.images.names import noise_name
from edit_robust.shifts.images.order import CROP, QUALITY, RESIZE, fit, jpeg_round_trip, resize_crop
from edit_robust.shifts.images.released import file_of, find
from edit_robust.shifts.images.store import CorruptedStore, digest_of, key_of
from edit_robust.shifts.severities import read_shifts
from edit_robust.shifts.text.names import ALL as TEXT_SHIFTS


@dataclass(frozen=True)
class Variant:
    """A way of showing a set: shift and severity; a set that is itself a natural shift has severity 0."""

    shift: str = "none"
    severity: int = 0


class ShiftOptions:
    """How images are shifted: the config's `shifts`.

    severities: those of every corruption that is given none of its own.
    order:      `direct` (the model's own resize and crop, corrupt) or `released`, as ImageNet-C was made whatever the
                model: resize to 256, crop 224, corrupt, JPEG quality 85, and last to the model's size.
    released:   folder of the released ImageNet-C, for an original task of ImageNet's validation images. (A name and no
                `DataFile`: its 4.75 million files are not read to name a run.)
    workers:    processes that corrupt images, and as many threads that decode them, ahead of the model; 0: done in
                place. Results do not depend on it. (`ImageSet.load` of a task of one's own is then called by threads.)
    store_gb:   disk for corrupted images, shared between runs; 0: none.
    """

    def __init__(
        self,
        severities: list[int] | None = None,
        order: Literal["direct", "released"] = "direct",
        released: str | None = None,
        workers: Aside[int] = 0,
        store_gb: Aside[float] = 4.0,
    ) -> None:
        if workers < 0 or store_gb < 0:
            raise UserError("shifts.workers and shifts.store_gb must be 0 or more")
        if released and not Path(released).is_dir():
            raise UserError(f"shifts.released={released} is no folder: unpack ImageNet-C's archives there")
        self.severities, self.order, self.released = severities, order, released or None
        self.workers, self.store_gb = workers, store_gb


@dataclass
class _Shard:
    """Images `rows` of a set; `pixels`: as the model crops them.

    shown: as they are corrupted.   names: what the noise of each is seeded with.
    """

    images: ImageSet
    rows: range
    pixels: Sequence[Pixels]
    shown: Sequence[Pixels]
    names: Sequence[str]

    def shows(self, pixels: Sequence[Pixels]) -> bool:
        """Whether these are the very images that it was made of."""
        return len(pixels) == len(self.pixels) and all(x is y for x, y in zip(pixels, self.pixels, strict=True))

    @cached_property
    def digest(self) -> str:
        """A hash of names and pixels, which the store keeps their variants under."""
        return digest_of(self.shown, self.names)


@dataclass
class Shifting:
    """How image sets are shown to a model of one size.

    corruptions: name -> severities.   order: direct or released, see `ShiftOptions`.   workers: processes that corrupt.
    size: of the model's images, which are square.   cropping: its own resize and crop, in words.
    store: keeps what was corrupted; None: nothing is kept.
    released: folder of the released ImageNet-C, whose files stand for the original task's corrupted images.
    """

    corruptions: Mapping[str, tuple[int, ...]]
    order: str
    workers: int
    store: CorruptedStore | None
    size: int
    cropping: str
    released: Path | None = None
    _pool: Executor | None = None
    _shard: _Shard | None = None

    @staticmethod
    def of(
        corruptions: Mapping[str, tuple[int, ...]], options: ShiftOptions, cache: Path, size: int, cropping: str
    ) -> Shifting:
        """cache: folder of the store.   size, cropping: see `Shifting`. Raises UserError for released files that are
        missing, before anything is edited."""
        store = CorruptedStore(cache, options.store_gb) if options.store_gb else None
        root = None if options.released is None else Path(options.released)
        if root is not None:
            for name, severities in corruptions.items():
                for severity in severities:
                    find(root, name, severity)
        return Shifting(corruptions, options.order, options.workers, store, size, cropping, root)

    @property
    def stamp(self) -> str:
        """What the corruptions are, as it stands with results: how many, and how images were resized and cropped."""
        if not self.corruptions:
            return "none"
        many = sum(len(v) for v in self.corruptions.values())
        named = ";".join(f"{n}:{','.join(map(str, s))}" for n, s in self.corruptions.items())
        digest = hashlib.sha256(named.encode()).hexdigest()[:8]
        last = "" if self.size == CROP else f", resize to {self.size} (bicubic)"
        where = (
            "" if self.released is None else f"original task: released ImageNet-C ({self.released.name}){last}; else "
        )
        made = f"{self.cropping}, corrupt"
        if self.order == "released":
            made = f"resize {RESIZE} (bilinear), crop {CROP}, corrupt, JPEG quality {QUALITY}{last}"
        return f"{where}in memory, {many} variants ({digest}), {made}"

    def variants(self, images: ImageSet) -> list[Variant]:
        """Clean first; corruptions only of sets that are no shift themselves and are asked about under them."""
        if images.shift != "none" or not images.corrupted:
            return [Variant(images.shift)]
        return [Variant(), *(Variant(n, s) for n, severities in self.corruptions.items() for s in severities)]

    def close(self) -> None:
        """Let the workers go, and the last shard; they come back when they are needed."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._shard = None

    def apply(
        self, variant: Variant, images: ImageSet, rows: range, pixels: Sequence[Pixels]
    ) -> UInt8[np.ndarray, "n size size 3"]:
        """A shard's pixels under a variant.

        pixels: the images of these rows as the model itself crops them. Seeded by image (`noise_name`), so that neither
        shards nor workers matter.
        """
        if not variant.severity:
            return np.stack(pixels)
        if self.released is not None and images.probe == "original":
            return np.stack([self._read(variant, images.ids[r]) for r in rows])
        shard = self._shown(images, rows, pixels)
        dataset = f"{images.probe}|{images.request}"

        def make() -> np.ndarray:
            if self.workers and self._pool is None:
                self._pool = worker_pool(self.workers)
            made = corrupt_many(
                shard.shown, shard.names, variant.shift, variant.severity, dataset, self.workers, self._pool
            )
            return np.stack([jpeg_round_trip(x) for x in made] if self.order == "released" else made)

        if self.store is None:
            made = make()
        else:
            key = key_of(shard.digest, dataset, variant.shift, variant.severity, self.order)
            made = self.store.get(key, make)
        return made if self.order == "direct" else np.stack([fit(x, self.size) for x in made])

    def _shown(self, images: ImageSet, rows: range, pixels: Sequence[Pixels]) -> _Shard:
        """A shard's images as they are corrupted, made and hashed once for all of its variants."""
        last = self._shard
        if last is None or last.images is not images or last.rows != rows or not last.shows(pixels):
            shown = pixels
            if self.order == "released":
                shown = [resize_crop(images.load(r), RESIZE, CROP) for r in rows]
            names = [noise_name(images.ids[r], x) for r, x in zip(rows, shown, strict=True)]
            last = self._shard = _Shard(images, rows, pixels, shown, names)
        return last

    def _read(self, variant: Variant, name: str) -> Pixels:
        """A released image: 224 pixels square, already resized and cropped; other sizes are resized whole."""
        assert self.released is not None
        return fit(read_image(file_of(self.released, variant.shift, variant.severity, name)), self.size)


def read_corruptions(node: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """Names with severities from the `corruption` part of a config; `none: null` is no corruption."""
    return read_shifts(node, ALL, TEXT_SHIFTS, "shifts text, and this model is shown images")
