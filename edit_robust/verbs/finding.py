"""How the runs that a verb is given are found, and the options that most verbs have."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edit_robust.runs.reader import Run

Outputs = Annotated[Path, typer.Option("--outputs", help="The outputs folder.")]
Names = Annotated[list[str] | None, typer.Argument(help="Run ids, the beginning or end of one, folders or patterns.")]


def found_runs(names: list[str] | None, outputs: Path) -> list[Run]:
    """The runs of these names, each once; without a name all complete ones. Raises UserError where there is none."""
    from edit_robust.core.errors import UserError
    from edit_robust.runs.reader import find_run, list_runs

    if not names:
        runs = [r for r in list_runs(outputs) if r.complete]
        if not runs:
            raise UserError(f"there are no complete runs in {outputs / 'runs'}")
        return runs
    found: dict[Path, Run] = {}
    for name in names:
        several = [r for r in list_runs(outputs) if fnmatch(r.id, name)] if any(c in name for c in "*?[") else []
        for r in several or [find_run(name, outputs)]:
            found[r.path] = r
    return list(found.values())
