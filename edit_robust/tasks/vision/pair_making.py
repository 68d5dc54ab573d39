"""Make pairs of photographs for task=pairs: paste a texture, such as snow, on the ground of each.

Written are pairs.csv (path, edited_path, label, mask_path), originals.csv (path, label), and the edited images and
masks.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edit_robust.core.errors import UserError, nearest
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.image_files import EXTENSIONS, Mask, read_image, read_mask
from edit_robust.tasks.vision.folders import folder_listing
from edit_robust.tasks.vision.photographs import ClassNames, class_names, csv_table, read_label
from edit_robust.tasks.vision.textures import fitted, paste, read_textures


@dataclass(frozen=True)
class Photograph:
    """A file, its name without ending, and its label."""

    path: Path
    name: str
    label: int


def from_table(
    table: Path, images: Path | None, id_column: str, label_column: str, offset: int, classes: ClassNames | None
) -> Iterator[Photograph]:
    """The photographs of a table; an id without an ending finds the image of that name."""
    base = table.parent if images is None else images
    if not base.is_dir():
        raise UserError(f"--images {base}: there is no such folder")
    by_stem = {p.stem: p for p in sorted(base.iterdir()) if p.suffix.lower() in EXTENSIONS}
    for where, row in csv_table(table, "PHOTOGRAPHS", (id_column, label_column), (), strict=False):
        path = base / row[id_column]
        if not path.is_file():
            path = by_stem.get(row[id_column], path)
        if not path.is_file():
            raise UserError(f'{where}: "{id_column}": no image {path}; {nearest(path.name, by_stem, f"in {base}")}')
        text = row[label_column]
        if offset:
            if not text.lstrip("-").isdigit() or int(text) + offset < 0:
                raise UserError(f'{where}: "{label_column}" is {text}: with --label-offset {offset} that is no index')
            text = str(int(text) + offset)
        yield Photograph(path, path.stem, read_label(text, classes, where))


def from_folders(root: Path, classes: ClassNames | None) -> Iterator[Photograph]:
    """The photographs of class folders."""
    if classes is None:
        raise UserError("class folders need --classes imagenet, or a file with one name a line")
    found = folder_listing(root, classes, "PHOTOGRAPHS")
    for name, label in zip(found.ids, found.labels, strict=True):
        yield Photograph(root / name, name.rpartition(".")[0].replace("/", "_"), label)


def ground(height: int, width: int, share: float, rng: np.random.Generator) -> Mask:
    """The lowest `share` of the rows, with an edge that rises and falls by a few per cent of the height."""
    x = np.linspace(0, 1, width)
    waves = sum(rng.normal() / k * np.sin(2 * np.pi * (k * x + rng.random())) for k in (1, 2, 3, 5, 8, 13))
    edge = (1 - share) * height + 0.02 * height * np.asarray(waves)
    # A soft edge, thresholded at a random level: ragged, as of grass or drifts, and still a mask of 0 and 1.
    depth = (np.arange(height)[:, None] - edge[None, :]) / max(0.02 * height, 1.0)
    return np.asarray(1 / (1 + np.exp(-np.clip(4 * depth, -50, 50))) > rng.uniform(0.2, 0.8, (height, width)))


def save(pixels: np.ndarray, path: Path) -> None:
    """A PNG file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        Image.fromarray(pixels).save(stream, format="PNG")


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """A CSV file."""
    from io import StringIO

    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


@dataclass(frozen=True, kw_only=True)
class Making:
    """How pairs are made.

    images: folder of a table's images; None: the table's.   id_column, label_column: the table's columns with a file's
        path or name, and with its class.   label_offset: added to labels.   classes: see `class_names`.
    masks: folder of masks named like the photographs; None: the lowest `share` of the height, with an uneven edge drawn
        with `seed`.   variants: textures a photograph.   n: photographs to take; None: all.
    """

    images: Path | None
    id_column: str
    label_column: str
    label_offset: int
    classes: str | None
    masks: Path | None
    share: float
    variants: int
    n: int | None
    seed: int


def make_pairs(photographs: Path, texture: Path, out: Path, how: Making) -> tuple[int, int]:
    """Write the pairs to a folder; how many, of how many photographs. UserError for whatever does not fit."""
    if not 0 < how.share < 1:
        raise UserError(f"--share {how.share} must be between 0 and 1")
    if how.variants < 1 or (how.n is not None and how.n < 1):
        raise UserError("--variants and --n must be at least 1")
    textures = read_textures(texture, "TEXTURE")
    if how.variants > len(textures):
        raise UserError(f"--variants {how.variants}: {texture} holds {len(textures)} textures")
    names = class_names(how.classes)
    source = (
        from_table(photographs, how.images, how.id_column, how.label_column, how.label_offset, names)
        if photographs.suffix.lower() == ".csv"
        else from_folders(photographs, names)
    )
    chosen = list(source)[: how.n]
    by_stem = {} if how.masks is None else {p.stem: p for p in how.masks.iterdir() if p.suffix.lower() in EXTENSIONS}
    pairs, originals = [], []
    for i, photograph in enumerate(chosen):
        clean = read_image(photograph.path)
        size = (clean.shape[0], clean.shape[1])
        if how.masks is None:
            mask = ground(*size, how.share, np.random.default_rng([how.seed, i]))
        elif photograph.name in by_stem:
            mask = read_mask(by_stem[photograph.name], size)
        else:
            words = nearest(photograph.name, by_stem)
            raise UserError(f"--masks {how.masks}: none is called {photograph.name}; {words}")
        path = Path(os.path.relpath(photograph.path, out)).as_posix()
        originals.append([path, str(photograph.label)])
        mask_path = f"masks/{photograph.name}.png"
        save(mask.astype(np.uint8) * 255, out / mask_path)
        for v in range(how.variants):
            k = (i + v) % len(textures)
            edited = f"edited/{photograph.name}_{k}.png"
            save(paste(clean, fitted(textures[k], size), mask), out / edited)
            pairs.append([path, edited, str(photograph.label), mask_path])
    write_table(out / "pairs.csv", ["path", "edited_path", "label", "mask_path"], pairs)
    write_table(out / "originals.csv", ["path", "label"], originals)
    return len(pairs), len(chosen)
