"""`edit-robust reproduce`: every figure and table of both papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Outputs


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="PAPER, PAPER/FIGURE or all; then options for the runs, as for `edit-robust run`."),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Print every figure and table, and how far it is.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds, edits and images, said on the figure.")] = False,
    scale: Annotated[str, typer.Option("--scale", help="builtin: offline; paper: the paper's own grid.")] = "builtin",
    part: Annotated[str | None, typer.Option("--part", help="3/16: of the runs the third of sixteen parts.")] = None,
    go: Annotated[bool, typer.Option("--go", help="Start the paper's own grid, once what it needs is there.")] = False,
    draw_only: Annotated[bool, typer.Option("--draw", help="Make no run: draw what the finished ones have.")] = False,
    data: Annotated[str, typer.Option("--data", help="Folder with ImageNet and the papers' data.")] = "data",
    tflops: Annotated[float, typer.Option("--tflops", help="10^12 operations a second, for GPU hours.")] = 10.0,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Make figures and tables of both papers again: `edit-robust reproduce at-scale/figure-1`, `... all --quick`.

    Runs what a figure needs, or goes on with it, draws it beside the paper's published numbers, and writes a page:
    outputs/reproduce/PAPER/index.html. Papers: at-your-own-risk (2303.00046) and at-scale (2401.07453).
    """
    from edit_robust.reproduce.door import Wish, fulfil, show_list

    if listing:
        show_list(names or [], outputs)
        return
    wish = Wish(tuple(names or ()), quick, scale, part, go, draw_only, data, tflops, outputs)
    code = fulfil(wish)
    if code:
        raise typer.Exit(code)
