"""`edit-robust estimate`: what a config will take, before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from edit_robust.completion import complete_override


def estimate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="As for `run`; a sweep's jobs are added up.", autocompletion=complete_override),
    ] = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Values with commas make a sweep.")] = False,
    config_dir: Annotated[str | None, typer.Option("--config-dir", help="A folder with configs of one's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: bytes and seconds.")] = False,
) -> None:
    """Say what a config will take before it runs: memory, disk and time.

    Sizes come from the model's config, formulas from docs/scale.md, seconds from a finished run like it in
    paths.outputs, or else from this machine's speed. No weight is loaded, and no network asked.
    """
    import json

    from edit_robust.estimate.shown import estimates, show

    found = estimates(overrides or [], config_dir, multirun)
    if as_json:
        typer.echo(json.dumps([{"run": one.run, **one.to_dict()} for one in found], indent=1))
    else:
        show(found)
