"""Findings as a person reads them, and pruning with a question before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edit_robust.doctor.caches import prune, removable
from edit_robust.doctor.finding import Finding
from edit_robust.report.numbers import gigabytes

SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "fault": ("FAULT", "bold red")}


def show(found: Sequence[Finding]) -> None:
    """A line a finding, by what was looked at; below it what to do. The last line counts the faults."""
    console = Console(highlight=False)
    if not console.is_terminal:  # in a file lines need not be broken
        console = Console(highlight=False, width=160)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    about = ""
    for one in found:
        if one.about != about:
            table.add_row("", Text(one.about, style="bold"), "")
            about = one.about
        sign, style = SIGNS[one.state]
        table.add_row(Text(sign, style=style), Text(f"  {one.name}"), Text(one.text))
        if one.mend:
            table.add_row("", "", Text(f"→ {one.mend}", style="dim"))
    console.print(table)
    faults = [one for one in found if one.state == "fault"]
    if faults:
        console.print(f"{len(faults)} of these stop runs: {', '.join(one.name for one in faults)}", style="bold red")
    else:
        console.print("Nothing here stops runs.")


def pruned(outputs: Path, yes: bool, ask: Callable[[str], bool]) -> None:
    """List what would be removed, ask, and remove it."""
    console = Console(highlight=False)
    found = removable(outputs)
    if not found:
        console.print(f"There is nothing to prune in {outputs / 'cache'}.")
        return
    for one in found:
        console.print(f"{gigabytes(one.size):>10}  {one.path}  ({one.again})", markup=False, soft_wrap=True)
    total = gigabytes(sum(one.size for one in found))
    if not yes and not ask(f"Remove these {total}? Runs that need them make them again."):
        console.print("Nothing was removed.")
        return
    console.print(f"{gigabytes(prune(outputs))} removed.")
