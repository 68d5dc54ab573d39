"""The name that an image's noise goes by: the same however its file is spelled, and wherever it lies."""

from __future__ import annotations

import hashlib
import posixpath

from edit_robust.shifts.images.types import Pixels


def noise_name(name: str, pixels: Pixels) -> str:
    """The stable name of an image: what `seed_of` takes as its id.

    name: as the image set has it: a path relative to the folder or table that lists the image, the number of a scene
    of a generated world, or two such parts joined by an @ (the picture, and what was made of it). It is taken without
    `./`, `//` and `folder/..`, so that spellings of one path are one name; names that have none of these stay as they
    are. A path that is absolute or leads out of the folder of the list tells where the file lies today, and not what
    it is: there the content of the image (`pixels`, as it is about to be corrupted) stands for the name.
    """
    parts = [posixpath.normpath(part) if part else part for part in name.split("@")]
    if any(part.startswith(("/", "~")) or part.split("/")[0] == ".." for part in parts):
        return "content:" + hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:32]
    return "@".join(parts)
