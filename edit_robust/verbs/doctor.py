"""`edit-robust doctor`: is everything here that runs need?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_robust.verbs.finding import Outputs


def doctor(
    outputs: Outputs = Path("outputs"),
    prune: Annotated[bool, typer.Option("--prune", help="Remove caches that runs make again when needed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Prune without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look at versions, devices, memory, disk, caches, models and data, and say what to do about each fault.

    Ends with 1 where something stops runs. The network is not asked.
    """
    import json

    from edit_robust.doctor import examined
    from edit_robust.doctor.shown import pruned, show

    if prune:
        pruned(outputs, yes, typer.confirm)
        return
    found = examined(outputs)
    if as_json:
        typer.echo(json.dumps([vars(one) for one in found], indent=1))
    else:
        show(found)
    if any(one.state == "fault" for one in found):
        raise SystemExit(1)
