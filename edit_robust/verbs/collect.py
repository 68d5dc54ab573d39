"""`edit-robust collect`: the records of many runs in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Names, Outputs, found_runs


def collect(
    out: Annotated[Path, typer.Option("--out", help="A .parquet or .csv file.")],
    names: Names = None,
    summary: Annotated[bool, typer.Option("--summary", help="One row a run: its choices and its summary.")] = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write all records of runs, sweeps or folders into one file: a row a number, with what each run was made with.

    `pandas.read_parquet` reads it. Without a name: all complete runs.
    """
    from edit_robust.sweeps.collect import collect as records
    from edit_robust.sweeps.collect import collect_summaries as summaries

    runs = found_runs(names, outputs)
    rows = (summaries if summary else records)(runs, out)
    typer.echo(f"{out}: {rows} rows of {len(runs)} run{'s' * (len(runs) > 1)}")
