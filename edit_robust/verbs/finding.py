"""How the runs that a verb is given are found, and the options that most verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edit_robust.completion import complete_run

if TYPE_CHECKING:
    from edit_robust.runs.reader import Run

Outputs = Annotated[Path, typer.Option("--outputs", help="The outputs folder.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Runs (the beginning or end of an id, a pattern), sweeps, or folders with runs.",
        autocompletion=complete_run,
    ),
]


def found_runs(names: list[str] | None, outputs: Path) -> list[Run]:
    """The runs of these names, each once; without a name all complete ones. Raises UserError where there is none."""
    from edit_robust.core.errors import UserError
    from edit_robust.runs.reader import list_runs
    from edit_robust.sweeps.found import runs_named

    if names:
        return runs_named(names, outputs)
    runs = [r for r in list_runs(outputs) if r.complete]
    if not runs:
        raise UserError(f"there are no complete runs in {outputs / 'runs'}")
    return runs
