"""`edit-robust evaluate`: finished runs are asked something new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.completion import complete_question
from edit_robust.verbs.finding import Outputs


def evaluate(
    ctx: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Finished runs, or patterns of their names.", autocompletion=complete_question
        ),
    ],
    config_dir: Annotated[str | None, typer.Option("--config-dir", help="A folder with configs of one's own.")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Ask finished runs something new: `edit-robust evaluate RUN RUN measure=[image-answers] corruption=imagenet-c`.

    Their edits are not made again: the changes that they kept are added one after the other. Runs on images that share
    model and task are answered in one pass over the images. steps: points (all, as the run looked at them), checks
    (where it looked back), last, every-N, a number or a list of numbers.
    """
    from edit_robust.config.asking import asking, told_apart
    from edit_robust.core.threads import prepare_environment
    from edit_robust.messages import present
    from edit_robust.revisit import revisit_all
    from edit_robust.runs.reader import Run
    from edit_robust.verbs.finding import found_runs

    prepare_environment()
    named, overrides = told_apart([*names, *ctx.args])
    runs = found_runs(named, outputs)
    revisit_all([asking(run, overrides, outputs, config_dir) for run in runs])
    for run in runs:
        present(Run(run.path))
