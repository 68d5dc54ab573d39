"""The released ImageNet-C: folders of JPEG files, as its archives unpack."""

from __future__ import annotations

from pathlib import Path

from edit_robust.core.errors import UserError
from edit_robust.shifts.benchmark import ALL, EXTRA, GROUP, check

SUFFIXES = (".jpeg", ".jpg", ".png")


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


def list_images(path: str | Path) -> list[tuple[Path, str]]:
    """Every image below class folders as (file, class folder), sorted by path. Raises UserError where there is none."""
    path = Path(path)
    found = []
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        if folder.is_dir() and not folder.name.startswith("."):
            files = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
            found += [(f, folder.name) for f in sorted(files)]
    if not found:
        raise UserError(f"{path} holds no images: expected class folders with files {', '.join(SUFFIXES)}")
    return found
