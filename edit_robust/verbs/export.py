"""`edit-robust export`: the edited model of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.completion import complete_run
from edit_robust.verbs.finding import Outputs


def export(
    name: Annotated[str, typer.Argument(help="A run whose edits stand in one model.", autocompletion=complete_run)],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[
        str | None,
        typer.Option("--to", help="hf, timm, open_clip, weights, peft or safetensors; what suits the model otherwise."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="Part of the change: W0 + alpha (W - W0).")] = 1.0,
    upto: Annotated[int | None, typer.Option("--upto", help="After so many edits of a sequential run.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of a peft adapter: cut the change to this rank.")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Save the edited model of a run for other programs, with a card that says what was edited and what it broke.

    hf: transformers loads it. timm, open_clip: these do. weights: any network's state dict. peft: the change alone, as
    a LoRA adapter. safetensors: the change alone, which `edit-robust apply` adds to another copy of the model.
    """
    from edit_robust.exports.exporting import export as write
    from edit_robust.runs.reader import find_run

    made = write(find_run(name, outputs), folder, to, alpha, upto, rank)
    for line in made.remarks:
        typer.echo(line)
    typer.echo(f"{made.folder} ({made.to})")
