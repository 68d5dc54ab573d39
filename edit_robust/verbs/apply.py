"""`edit-robust apply`: an exported change added to another copy of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def apply(
    delta: Annotated[Path, typer.Argument(help="What `export --to safetensors` wrote: the file or its folder.")],
    to: Annotated[str, typer.Option("--to", help="The unedited model: a config's name (fact-gpt) or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Options of the model, as model.path=FOLDER.")] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="Part of the change: W0 + alpha (W - W0).")] = 1.0,
    form: Annotated[
        str | None, typer.Option("--format", help="As --to of `export`; what suits the model otherwise.")
    ] = None,
) -> None:
    """Add an exported change to the model that it was made for, and save that: `apply DELTA --to fact-gpt --out NEW`.

    Another model than the one that the change was made for is refused.
    """
    from edit_robust.exports.applying import apply as add

    made = add(delta, to, out, alpha, overrides or [], form)
    typer.echo(f"{made.folder} ({made.to})")
