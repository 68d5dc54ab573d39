"""`edit-robust findings`: every claim of both papers, and what the runs at hand show of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Names, Outputs, found_runs


def findings(
    names: Names = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the table to this .md or .csv file, too.")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Print every claim of both papers with its test, the measured value and its interval, and the verdict.

    Made from the records of the runs. Without a name: of all complete runs.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from edit_robust.figures.frame import RunData
    from edit_robust.report.findings import NOTE, cells, write_findings
    from edit_robust.report.findings import findings as table_of

    table = table_of([RunData.of(r) for r in found_runs(names, outputs)])
    if out is not None:
        typer.echo(write_findings(table, out))
    console, looks, told = Console(highlight=False), {"agrees": "green", "disagrees": "red"}, ""
    for where, says, line, test, value, units, verdict, note in cells(table):
        if says != told:
            console.print(f"\n[bold]{says}[/bold] [dim]({where}; {test})[/dim]", soft_wrap=False)
        told = says
        shown = Table.grid(padding=(0, 2, 0, 0))
        for width in (9, 24, 4):
            shown.add_column(width=width)
        shown.add_column(overflow="fold", ratio=1)
        about = "; ".join(part for part in (line, note) if part)
        shown.add_row(f"[{looks.get(verdict, 'yellow')}]{verdict}[/]", value, units, Text(about))
        console.print(Padding(shown, (0, 0, 0, 2)))
    console.print(f"\n{NOTE} Columns: verdict, value with its 95 % interval, units, line.", style="dim")
