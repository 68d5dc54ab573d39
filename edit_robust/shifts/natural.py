"""Natural shifts: ImageNet-R, ImageNet-A, ImageNet-V2 and ImageNet-Sketch, read from the folders they come in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from edit_robust.core.errors import UserError, nearest
from edit_robust.shifts.released import list_images

#: Folders that the archives unpack to: the images lie in the root given, or in one of these below it.
FOLDERS: dict[str, tuple[str, ...]] = {
    "imagenet-r": ("imagenet-r",),
    "imagenet-a": ("imagenet-a",),
    "imagenet-v2": (
        "imagenetv2-matched-frequency-format-val",
        "imagenetv2-threshold0.7-format-val",
        "imagenetv2-top-images-format-val",
    ),
    "imagenet-sketch": ("sketch", "imagenet-sketch"),
}
NATURAL = tuple(FOLDERS)
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class NaturalShift:
    """Images of a natural shift.

    files:   one an image, sorted by path.   ids: class folder and file name, unique in the shift.
    labels:  the right class of each, as an index into the model's classes.
    classes: indices of the classes that occur, ascending: the answer is chosen among these (200 for R and A, each its
             own; all 1000 for V2 and Sketch).
    """

    name: str
    files: tuple[Path, ...]
    ids: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)


def imagenet_wnids() -> tuple[str, ...]:
    """ImageNet's 1000 classes as WordNet ids, in the order of a classifier's outputs; timm brings the list along."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def _root(name: str, root: Path) -> Path:
    """The folder that holds the class folders."""
    for folder in (root, *(root / sub for sub in FOLDERS[name])):
        if folder.is_dir() and any(_is_class(name, f.name) for f in folder.iterdir() if f.is_dir()):
            return folder
    kind = "0 to 999" if name == "imagenet-v2" else "WordNet ids such as n01443537"
    state = "holds no class folders" if root.is_dir() else "is no folder"
    raise UserError(f"{root} {state}: unpack {name} there; its class folders are named {kind}")


def _is_class(name: str, folder: str) -> bool:
    return folder.isdecimal() if name == "imagenet-v2" else bool(_WNID.fullmatch(folder))


def read(name: str, root: str | Path, wnids: Sequence[str] | None = None) -> NaturalShift:
    """One natural shift.

    root: the folder with the class folders, or the one above it. wnids: the model's classes in the order of its
    outputs; None: ImageNet's 1000. V2's folders are positions in ImageNet's list, and are looked up by WordNet id in
    the model's. Raises UserError for an unknown shift, a root without class folders, and classes the model lacks.
    """
    if name not in FOLDERS:
        raise UserError(f'there is no natural shift "{name}": {nearest(name, NATURAL, "natural shifts")}')
    classes = tuple(wnids) if wnids is not None else imagenet_wnids()
    index = {wnid: i for i, wnid in enumerate(classes)}
    folder = _root(name, Path(root))
    found = [(file, c) for file, c in list_images(folder) if _is_class(name, c)]
    if not found:
        raise UserError(f"{folder} holds no images in its class folders: unpack {name} again")
    names = sorted({c for _, c in found})
    wnid_of = {c: c for c in names}
    if name == "imagenet-v2":
        listed = imagenet_wnids()
        beyond = [c for c in names if int(c) >= len(listed)]
        if beyond:
            raise UserError(f"{folder} has a class folder {beyond[0]}: expected 0 to {len(listed) - 1}")
        wnid_of = {c: listed[int(c)] for c in names}
    lacking = [c for c in names if wnid_of[c] not in index]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(names)} class folders of {name} are no class of the model, {lacking[0]} for one: "
            "it needs a classifier of ImageNet's classes"
        )
    labels = np.array([index[wnid_of[c]] for _, c in found], dtype=np.int64)
    return NaturalShift(
        name,
        tuple(file for file, _ in found),
        tuple(f"{c}/{file.name}" for file, c in found),
        labels,
        tuple(sorted({int(i) for i in labels})),
    )
