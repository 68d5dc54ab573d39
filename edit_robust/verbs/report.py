"""`edit-robust report`: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Names, Outputs, found_runs


def report(
    names: Names = None,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file; outputs/report.html otherwise.")] = None,
    claims: Annotated[
        Path | None, typer.Option("--claims", help="Write the papers' claims alone, as a .md or .csv file.")
    ] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write one self-contained HTML page about runs, a sweep or a folder of runs. Without a name: all complete runs.

    It says what was edited, whether it took and held, what else broke, when and by which edit, with figures, every
    edit and image, the cost and the command; it opens anywhere, loads nothing, and can be sent and printed.
    """
    from edit_robust.figures.frame import RunData
    from edit_robust.report import write_report
    from edit_robust.report.claim_files import write_claims

    runs = [RunData.of(r) for r in found_runs(names, outputs)]
    if claims is not None:
        typer.echo(write_claims(runs, claims))
    if claims is None or out is not None:
        typer.echo(write_report(runs, out or outputs / "report.html"))
