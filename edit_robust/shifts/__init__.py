"""Shifts of images: ImageNet-C's corruptions in memory, a store of corrupted images, and natural shifts.

`corrupt` gives what imagecorruptions 1.1.2 gives for the same seed, bit for bit, on current libraries and much faster;
docs/corruptions.md names its defects and what became of each.
"""

from edit_robust.shifts.images.benchmark import (
    ALL,
    CORRUPTIONS,
    EXTRA,
    VERSION,
    corrupt,
    corrupt_many,
    seed_of,
    worker_pool,
)

__all__ = ["ALL", "CORRUPTIONS", "EXTRA", "VERSION", "corrupt", "corrupt_many", "seed_of", "worker_pool"]
