"""`edit-robust make-pairs`: pairs of photographs for task=pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def make_pairs(
    photographs: Annotated[Path, typer.Argument(help="Class folders, or a .csv file with a path or id and a label.")],
    texture: Annotated[Path, typer.Argument(help="An image, a folder of them, or a .pt file with imgs [n, 3, h, w].")],
    out: Annotated[Path, typer.Option("--out", help="A folder to write to.")] = Path("pairs"),
    images: Annotated[Path | None, typer.Option(help="Folder of the table's images; by default the table's.")] = None,
    id_column: Annotated[str, typer.Option(help="Column with the file's path or name.")] = "path",
    label_column: Annotated[str, typer.Option(help="Column with the class.")] = "label",
    label_offset: Annotated[int, typer.Option(help="Added to labels; -1 where they count from 1.")] = 0,
    classes: Annotated[str | None, typer.Option(help="imagenet, or a file with one class name a line.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks named like the photographs.")] = None,
    share: Annotated[float, typer.Option(help="Share of the height that the ground takes, without --masks.")] = 0.45,
    variants: Annotated[int, typer.Option(help="Textures a photograph; they take turns.")] = 1,
    n: Annotated[int | None, typer.Option(help="Photographs to take; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the ground's edge.")] = 0,
) -> None:
    """Paste a texture, such as snow, on the ground of photographs: `make-pairs PHOTOGRAPHS snow.jpg --out pairs`.

    The ground is the lower part of a photograph with an uneven upper edge, or what --masks marks: one image a
    photograph, under its name. Class folders need --classes. A table may have other columns:
    --images FOLDER --id-column ImageId --label-column TrueLabel --label-offset -1.
    """
    from edit_robust.tasks.vision.pair_making import Making
    from edit_robust.tasks.vision.pair_making import make_pairs as make

    how = Making(
        images=images, id_column=id_column, label_column=label_column, label_offset=label_offset, classes=classes,
        masks=masks, share=share, variants=variants, n=n, seed=seed,
    )  # fmt: skip
    pairs, of = make(photographs, texture, out, how)
    typer.echo(f"{pairs} pairs of {of} photographs: {out / 'pairs.csv'}; clean ones: {out / 'originals.csv'}")
