"""Make pairs of photographs for task=pairs: paste a texture, such as snow, on the ground of each.

    python scripts/make_pairs.py PHOTOGRAPHS TEXTURE --out PAIRS            # a folder of class folders, or a .csv file
    python scripts/make_pairs.py images.csv snowy_ground.pt --out PAIRS \\
        --images images --id-column ImageId --label-column TrueLabel --label-offset -1

Writes pairs.csv (path, edited_path, label, mask_path), originals.csv (path, label), and the edited images and masks.
The ground is the lower part of a photograph with an uneven upper edge, or what --masks FOLDER marks: one image a
photograph, under its name.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
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


def make(
    photographs: Annotated[Path, typer.Argument(help="class folders, or a .csv file with a path or id and a label")],
    texture: Annotated[Path, typer.Argument(help="a .pt file with imgs [n, 3, h, w], an image, or a folder of them")],
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("pairs"),
    images: Annotated[Path | None, typer.Option(help="folder of the table's images; by default the table's")] = None,
    id_column: Annotated[str, typer.Option(help="column with the file's path or name")] = "path",
    label_column: Annotated[str, typer.Option(help="column with the class")] = "label",
    label_offset: Annotated[int, typer.Option(help="added to labels; -1 where they count from 1")] = 0,
    classes: Annotated[str | None, typer.Option(help="imagenet, or a file with one class name a line")] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of masks named like the photographs")] = None,
    share: Annotated[float, typer.Option(help="share of the height that the ground takes, without --masks")] = 0.45,
    variants: Annotated[int, typer.Option(help="textures a photograph; they take turns")] = 1,
    n: Annotated[int | None, typer.Option(help="photographs to take; all by default")] = None,
    seed: Annotated[int, typer.Option(help="of the ground's edge")] = 0,
) -> None:
    """Paste a texture on the ground of photographs and write the pairs."""
    if not 0 < share < 1:
        raise UserError(f"--share {share} must be between 0 and 1")
    if variants < 1 or (n is not None and n < 1):
        raise UserError("--variants and --n must be at least 1")
    textures = read_textures(texture, "TEXTURE")
    if variants > len(textures):
        raise UserError(f"--variants {variants}: {texture} holds {len(textures)} textures")
    names = class_names(classes)
    source = (
        from_table(photographs, images, id_column, label_column, label_offset, names)
        if photographs.suffix.lower() == ".csv"
        else from_folders(photographs, names)
    )
    chosen = list(source)[:n]
    by_stem = {} if masks is None else {p.stem: p for p in masks.iterdir() if p.suffix.lower() in EXTENSIONS}
    pairs, originals = [], []
    for i, photograph in enumerate(chosen):
        clean = read_image(photograph.path)
        size = (clean.shape[0], clean.shape[1])
        if masks is None:
            mask = ground(*size, share, np.random.default_rng([seed, i]))
        elif photograph.name in by_stem:
            mask = read_mask(by_stem[photograph.name], size)
        else:
            raise UserError(f"--masks {masks}: none is called {photograph.name}; {nearest(photograph.name, by_stem)}")
        path = Path(os.path.relpath(photograph.path, out)).as_posix()
        originals.append([path, str(photograph.label)])
        mask_path = f"masks/{photograph.name}.png"
        save(mask.astype(np.uint8) * 255, out / mask_path)
        for v in range(variants):
            k = (i + v) % len(textures)
            edited = f"edited/{photograph.name}_{k}.png"
            save(paste(clean, fitted(textures[k], size), mask), out / edited)
            pairs.append([path, edited, str(photograph.label), mask_path])
    write_table(out / "pairs.csv", ["path", "edited_path", "label", "mask_path"], pairs)
    write_table(out / "originals.csv", ["path", "label"], originals)
    print(f"{len(pairs)} pairs of {len(chosen)} photographs: {out / 'pairs.csv'}; clean ones: {out / 'originals.csv'}")


def main() -> None:
    """The command line; what a user can put right is one line, and exit code 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=__doc__)(make)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
