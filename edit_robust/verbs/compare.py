"""`edit-robust compare`: editors side by side on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Names, Outputs, found_runs


def compare(
    names: Names = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Editor or run to compare with; the best otherwise.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Number that orders the editors, as S; the first one otherwise.")
    ] = None,
    grouped: Annotated[bool, typer.Option("--grouped", help="A table for each task and model.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write it: a .html, .md or .csv file.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw it: a .png, .pdf or .svg file.")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Editors side by side on one task: means, paired differences with intervals, shared ranks, and what an edit cost.

    Runs that differ in order or seed alone are repeats of one editor. Without a name: all complete runs.
    """
    from rich.console import Console

    from edit_robust.report.compare import boards, costs, differences, draw_to, summary, write_comparison

    found = boards(found_runs(names, outputs), against, by, grouped)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    for one in found:
        for table in (summary(one), differences(one), costs(one)):
            console.print(table)
            console.print()
    for path in [*(write_comparison(found, out) if out else []), *(draw_to(found, figure) if figure else [])]:
        typer.echo(path)
