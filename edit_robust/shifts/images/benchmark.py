"""ImageNet-C's corruptions in memory: names, seeds, one image, many images."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np

from edit_robust.core.errors import UserError, nearest
from edit_robust.shifts.images.types import Corruption, Pixels

#: Raised whenever a pixel of any corruption changes: stores of corrupted images are keyed by it.
VERSION = 1

_MODULES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
#: The four that stand beside the fifteen, by the module that holds them.
_EXTRA = {"speckle_noise": "noise", "gaussian_blur": "blur", "spatter": "weather", "saturate": "digital"}

CORRUPTIONS: tuple[str, ...] = tuple(name for names in _MODULES.values() for name in names)
EXTRA: tuple[str, ...] = tuple(_EXTRA)
ALL: tuple[str, ...] = CORRUPTIONS + EXTRA
GROUP: dict[str, str] = {name: group for group, names in _MODULES.items() for name in names} | _EXTRA

SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 32


def check(name: str, severity: int) -> None:
    """Raises UserError for an unknown corruption or a severity other than 1 to 5."""
    if name not in ALL:
        raise UserError(f'there is no corruption "{name}": {nearest(name, ALL, "corruptions")}')
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise UserError(f"severity {severity!r} of {name}: expected 1, 2, 3, 4 or 5")


def as_pixels(image: Any) -> Pixels:
    """uint8 [height, width, 3], read-only and contiguous, of an image that a corruption can be asked for.

    Takes uint8 arrays [height, width], [height, width, 1] and [height, width, 3], and PIL images of mode RGB or L.
    Grey becomes three equal channels, and stays three, as in imagecorruptions. Raises UserError.
    """
    mode = getattr(image, "mode", None)
    if mode is not None and not isinstance(image, np.ndarray):
        if mode not in ("RGB", "L"):
            raise UserError(f"a PIL image of mode {mode} cannot be corrupted: convert it to RGB first")
        image = np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image is expected as a uint8 array, not as {type(image).__name__}")
    if image.dtype != np.uint8:
        raise UserError(f"an image is expected as uint8 in 0..255, not as {image.dtype}")
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise UserError(f"an image is expected as [height, width, 3], not as {list(image.shape)}")
    if min(image.shape[:2]) < MIN_SIDE:
        height, width = image.shape[:2]
        raise UserError(f"an image of {height} x {width} is too small: both sides need {MIN_SIDE} pixels")
    pixels = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))).view()
    pixels.flags.writeable = False  # always, as compiled code is compiled anew for arrays that can be written to
    return pixels


def function(name: str) -> Corruption:
    """The corruption of that name; loaded here, so that nothing compiles before it is asked for."""
    check(name, 1)
    found: Corruption = getattr(import_module(f"edit_robust.shifts.images.{GROUP[name]}"), name)
    return found


def corrupt(image: Any, corruption_name: str, severity: int = 1, seed: int = 0) -> Pixels:
    """The corrupted image, uint8 [height, width, 3]: what `imagecorruptions.corrupt` gives after np.random.seed(seed).

    image: see `as_pixels`; it is left as it is. seed: 0 to 2^32 - 1. No global state is read or changed.
    Raises UserError for an unknown name, a severity other than 1..5, a seed out of range, and what is no uint8 image of
    32 pixels or more a side.
    """
    check(corruption_name, severity)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed} is out of range: expected 0 to {2**32 - 1}")
    pixels = as_pixels(image)
    return function(corruption_name)(pixels, int(severity), np.random.RandomState(seed))


def seed_of(dataset: str, image_id: str, corruption: str, severity: int) -> int:
    """32 bits that depend on what is corrupted and how, and on nothing else: not on order, workers or process."""
    told = "\0".join((dataset, image_id, corruption, str(int(severity))))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")


def _start_worker() -> None:
    """One thread a worker: there are as many workers as the caller wants busy."""
    import cv2

    cv2.setNumThreads(1)


def _one(job: tuple[np.ndarray, str, int, int]) -> Pixels:
    image, name, severity, seed = job
    return corrupt(image, name, severity, seed)


def corrupt_many(
    images: Sequence[np.ndarray],
    ids: Sequence[str],
    name: str,
    severity: int,
    dataset: str,
    workers: int = 0,
    pool: Executor | None = None,
) -> list[Pixels]:
    """Every image corrupted with the seed of its own id; the same for any number of workers and any order.

    workers: 0 runs in this process, more start that many (spawned) ones, which takes seconds; `pool` (of `workers`)
    is used instead where one is there already. Raises UserError as `corrupt` does.
    """
    check(name, severity)
    if len(images) != len(ids):
        raise UserError(f"{len(images)} images but {len(ids)} ids: every image needs one")
    if workers < 0:
        raise UserError(f"workers={workers}: expected 0 (this process) or more")
    jobs = [(x, name, severity, seed_of(dataset, i, name, severity)) for x, i in zip(images, ids, strict=True)]
    # The first one always here: a bad request fails at once, and the loops are compiled before others want them.
    first = [_one(job) for job in jobs[:1]]
    if workers == 0 or len(jobs) < 2:
        return first + [_one(job) for job in jobs[1:]]
    chunk = max(1, len(jobs) // (4 * workers))
    if pool is not None:
        return first + list(pool.map(_one, jobs[1:], chunksize=chunk))
    with worker_pool(workers) as own:
        return first + list(own.map(_one, jobs[1:], chunksize=chunk))


def worker_pool(workers: int) -> Executor:
    """Processes for `corrupt_many`."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
