"""The released ImageNet-C: folders of JPEG files, as its archives unpack."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath

from edit_robust.core.errors import UserError
from edit_robust.shifts.images.benchmark import ALL, EXTRA, GROUP, check

SUFFIXES = (".JPEG", ".jpeg", ".jpg", ".png")


def archive(name: str) -> str:
    """The archive, and the folder that it makes, which holds a corruption: noise, blur, weather, digital or extra."""
    check(name, 1)
    return "extra" if name in EXTRA else GROUP[name]


def find(root: str | Path, name: str, severity: int) -> Path:
    """The folder of class folders of one corruption at one severity.

    Layouts: root/<archive>/<corruption>/<severity> and root/<corruption>/<severity>. Raises UserError that says what is
    missing, and where to put it.
    """
    check(name, severity)
    root = Path(root)
    tried = [root / archive(name) / name / str(severity), root / name / str(severity)]
    for folder in tried:
        if folder.is_dir():
            return folder
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: unpack ImageNet-C's archives there (noise.tar, blur.tar, ...)")
    there = [n for n in ALL if (root / archive(n) / n).is_dir() or (root / n).is_dir()]
    found = f"it holds {', '.join(there)}" if there else "it holds no corruption"
    raise UserError(
        f"{root} has no {name} at severity {severity} ({found}): unpack {archive(name)}.tar of ImageNet-C there, "
        f"so that {tried[0]} or {tried[1]} holds the class folders"
    )


def file_of(root: str | Path, name: str, severity: int, image: str) -> Path:
    """The file of one image of ImageNet's validation set, named as `.../class folder/file`, however that is spelled.

    Raises UserError where there is none: other images than those were never released.
    """
    place = PurePosixPath(posixpath.normpath(image))
    folder = find(root, name, severity) / place.parent.name
    for suffix in (place.suffix, *SUFFIXES):
        file = folder / f"{place.stem}{suffix}"
        if file.is_file():
            return file
    raise UserError(
        f"{folder} has no {place.stem}: shifts.released holds ImageNet's validation images, named as in task.original; "
        "leave it out to corrupt in memory"
    )
