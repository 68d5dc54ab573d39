"""Segmentations: images with the mask of one concept in each, as EditingClassifiers releases them or as mask images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import EXTENSIONS, Mask, as_mask, image_size, read_image, read_mask
from edit_robust.core.images import Pixels
from edit_robust.tasks.reading import parse_json, read_text
from edit_robust.tasks.vision.folders import Listing
from edit_robust.tasks.vision.photographs import ClassNames, csv_table, file_beside, name_beside, read_label
from edit_robust.tasks.vision.textures import as_pixels, read_arrays


@dataclass(frozen=True)
class Segments:
    """Images of one concept with its mask in each. `index`: position among the sorted files of ImageNet, or -1."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    index: tuple[int, ...]
    image: Callable[[int], Pixels]
    mask: Callable[[int], Mask]

    def __len__(self) -> int:
        return len(self.ids)


def array_segments(path: Path, original: Listing | None, n_classes: int) -> Segments:
    """The segmentations of a .pt or .npz file: imgs [n, 3, h, w], masks [n, (1 or 3,) h, w], labels [n], idx [n].

    `idx` counts the validation images in the order of their sorted paths, from 0; without it the position in the
    file is the id. Images whose mask is zero everywhere are left out. Raises UserError where the parts do not fit
    each other, and where `idx` and `original` disagree about an image's class.
    """
    held = read_arrays(path)
    for key in ("imgs", "masks", "labels"):
        if key not in held:
            raise UserError(f'{path} has no "{key}"; {nearest(key, held, "entries")}')
    imgs, masks, labels = held["imgs"], held["masks"], held["labels"].astype(np.int64).ravel()
    if masks.ndim == 4:
        masks = masks[:, 0]
    if imgs.ndim != 4 or masks.shape != (len(imgs), *imgs.shape[2:]) or len(labels) != len(imgs):
        shapes = ", ".join(f"{k} {list(held[k].shape)}" for k in ("imgs", "masks", "labels"))
        raise UserError(f"{path}: {shapes} do not fit; [n, 3, h, w], [n, h, w] and [n] are expected")
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise UserError(f"{path}: labels are from {labels.min()} to {labels.max()}; there are {n_classes} classes")
    index = held["idx"].astype(np.int64).ravel() if "idx" in held else np.full(len(imgs), -1)
    keep = [i for i in range(len(imgs)) if masks[i].any()]
    if not keep:
        raise UserError(f"{path}: every mask is zero everywhere")
    ids = _ids(path, index[keep], labels[keep], original) if "idx" in held else tuple(f"{path.stem}/{i}" for i in keep)
    return Segments(
        ids=ids,
        labels=tuple(int(v) for v in labels[keep]),
        index=tuple(int(v) for v in index[keep]),
        image=lambda i: as_pixels(imgs[keep[i]][None], str(path))[0],
        mask=lambda i: as_mask(masks[keep[i]]),
    )


def _ids(path: Path, index: np.ndarray, labels: np.ndarray, original: Listing | None) -> tuple[str, ...]:
    """Names of the images: paths of the original files where these are the set that `idx` counts."""
    if len(set(index.tolist())) < len(index) or (len(index) and index.min() < 0):
        raise UserError(f'{path}: "idx" must hold different positions from 0')
    if original is None or (len(index) and index.max() >= len(original)):
        return tuple(f"img_{i:05d}" for i in index)  # a part of ImageNet: positions in the whole mean nothing there
    wrong = [k for k, (i, y) in enumerate(zip(index, labels, strict=True)) if original.labels[i] != y]
    if wrong:
        i, y = int(index[wrong[0]]), int(labels[wrong[0]])
        raise UserError(
            f"{path}: idx {i} has class {y}, but file {i} of {original.where} by sorted path, {original.ids[i]}, has "
            f"class {original.labels[i]}: the segmentations are of another validation set"
        )
    return tuple(original.ids[i] for i in index)


def folder_segments(path: Path, original: Listing) -> Segments:
    """Masks as images `<class folder>_<file>.png`, each of the size of its image in `original`."""
    known = {"_".join(Path(i).with_suffix("").parts[-2:]): k for k, i in enumerate(original.ids)}
    found: list[tuple[Path, int]] = []
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS):
        if file.stem not in known:
            raise UserError(
                f"{file}: no image of {original.where} is called so; masks are named <class folder>_<file>.png, "
                f"for example {next(iter(known), '')}.png"
            )
        found.append((file, known[file.stem]))
    if not found:
        raise UserError(f"{path} holds no masks")
    ids = tuple(original.ids[k] for _, k in found)

    def mask(i: int) -> Mask:
        return read_mask(found[i][0], original.load(ids[i]).shape[:2])

    return Segments(
        ids,
        tuple(original.labels[k] for _, k in found),
        tuple(k for _, k in found),
        lambda i: original.load(ids[i]),
        mask,
    )


def read_annotations(path: Path) -> set[int]:
    """Classes whose entry "class_<index>" is "yes"."""
    held = parse_json(read_text(path, "task.annotations"), str(path))
    if not isinstance(held, dict):
        raise UserError(f'{path} must hold entries such as "class_444": "yes"')
    found = set()
    for key, value in held.items():
        if not re.fullmatch(r"class_\d+", key) or not isinstance(value, str):
            raise UserError(f'{path}: the entry "{key}" is not of the form "class_<index>": "yes" or "no"')
        if value.strip().lower() == "yes":
            found.add(int(key.removeprefix("class_")))
    return found


def table_segments(path: Path, classes: ClassNames, option: str) -> Segments:
    """Photographs with a mask each from a table with path, label and mask_path, relative to its folder."""
    rows: list[tuple[str, Path, Path, int]] = []
    for where, row in csv_table(path, option, ("path", "label", "mask_path"), (), strict=False):
        image = file_beside(path.parent, row["path"], "path", where)
        mask = file_beside(path.parent, row["mask_path"], "mask_path", where)
        read_mask(mask, image_size(image))  # a wrong one is found now, and not in the middle of an edit
        rows.append((name_beside(path.parent, row["path"]), image, mask, read_label(row["label"], classes, where)))
    if len({r[0] for r in rows}) < len(rows):
        raise UserError(f"{path}: two rows have the same path")
    return Segments(
        ids=tuple(r[0] for r in rows),
        labels=tuple(r[3] for r in rows),
        index=(-1,) * len(rows),
        image=lambda i: read_image(rows[i][1]),
        mask=lambda i: read_mask(rows[i][2]),
    )


# -- the paper's split ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Which (image, style variant) an edit is made from, searched on and reported on."""

    train: tuple[tuple[int, int], ...]
    search: tuple[tuple[int, int], ...]
    val: tuple[tuple[int, int], ...]


def paper_split(
    labels: Sequence[int],
    n_variants: int,
    n_train: int,
    rho: float,
    s_train: int,
    n_search: int,
    leak_free: bool,
    seed: int,
) -> Split:
    """The split of arXiv 2303.00046, App. D.1: labels with at least n_train / rho images give n_train of them to
    training, in `s_train` style variants; the other images of these labels, in every variant, are validation.

    Labels with fewer images are in no part: every label of validation occurs in training.
    `n_search` more images of each label, in one variant each, are kept out of both for choosing a learning rate.
    `leak_free`: a train image does not appear in validation under a variant that was not trained on. Raises ValueError
    if no label has enough images.
    """
    g = np.random.default_rng(seed)
    counts = Counter(labels)
    allowed = sorted(y for y, n in counts.items() if n >= n_train / rho)
    if not allowed:
        raise ValueError(f"{max(counts.values())}")
    trained = set(allowed)
    chosen = sorted(g.permutation(n_variants)[:s_train].tolist())
    train: list[int] = []
    search: list[tuple[int, int]] = []
    for y in allowed:
        members = [i for i, other in enumerate(labels) if other == y]
        order = [members[j] for j in g.permutation(len(members))]
        train += order[:n_train]
        search += [(i, int(g.integers(n_variants))) for i in order[n_train : n_train + n_search]]
    pairs = set(product(sorted(train), chosen))
    out = {i for i, _ in search} | (set(train) if leak_free else set())
    rest = [i for i, y in enumerate(labels) if y in trained and i not in out]
    val = [(i, v) for i in rest for v in range(n_variants) if (i, v) not in pairs]
    return Split(tuple(sorted(pairs)), tuple(sorted(search)), tuple(val))
