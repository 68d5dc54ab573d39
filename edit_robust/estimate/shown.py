"""Estimates of a command line's jobs, and how a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.config.grid import grid
from edit_robust.config.identity import run_id
from edit_robust.estimate import Estimate, Speed, estimate
from edit_robust.estimate.sizes import sizes_of
from edit_robust.report.numbers import gigabytes, span

#: Up to so many jobs are shown with all their items.
WHOLE = 2


@dataclass(frozen=True)
class Named:
    """A job's estimate under its run's id."""

    run: str
    found: Estimate

    def to_dict(self) -> dict[str, Any]:
        """As `Estimate.to_dict`."""
        return self.found.to_dict()


def estimates(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> list[Named]:
    """One a job; of a sweep those of all jobs, each run once. Raises UserError for a config that does not fit."""
    own = [o for o in overrides if o.startswith("experiment=")]
    if own and "," not in own[0]:
        mode = compose(own, config_dir, with_hydra=True).hydra.mode
        multirun = multirun or str(mode).rpartition(".")[2] == "MULTIRUN"
    found: dict[str, Named] = {}
    speed: Speed | None = None
    for job in grid(overrides, config_dir) if multirun else [list(overrides)]:
        values = check(compose([o for o in job if not o.startswith("hydra")], config_dir))
        name = run_id(values)
        if name not in found:
            if speed is None and not isinstance(sizes_of(values), str):
                speed = Speed.here()
            found[name] = Named(name, estimate(values, Path(str(values["paths"]["outputs"])), speed))
    return list(found.values())


def show(named: Sequence[Named]) -> None:
    """Items of few jobs, a line each of many, and the sum."""
    console = Console(highlight=False)
    if len(named) <= WHOLE:
        for one in named:
            console.print(items(one))
            for line in _totals([one]):
                console.print(line, markup=False, soft_wrap=True)
            console.print()
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("edits", "memory", "disk", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in named:
        table.add_row(one.run, *_cells(one.found))
    console.print(table)
    for line in _totals(named):
        console.print(line, markup=False, soft_wrap=True)


def items(one: Named) -> Table:
    """Every item of one estimate with its formula."""
    table = Table(title=one.run, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("", "", "how"):
        table.add_column(heading, justify="right" if heading == "" and table.columns else "left", overflow="fold")
    for title, some in (("memory", one.found.memory), ("disk", one.found.disk)):
        if some:
            table.add_row(f"[bold]{title}[/bold]")
        for item in some:
            size = gigabytes(item.size)
            table.add_row(f"  {item.what}", f"at most {size}" if item.limit else size, item.how)
    if one.found.time:
        table.add_row("[bold]time[/bold]")
    for part in one.found.time:
        table.add_row(f"  {part.what}", "unknown" if part.seconds is None else span(part.seconds), part.how)
    return table


def _cells(found: Estimate) -> list[str]:
    if found.plan is None:
        return ["", "unknown", "unknown", "unknown"]
    time = "unknown" if found.seconds is None else span(found.seconds)
    return [str(found.plan.n or "?"), gigabytes(found.peak_bytes), gigabytes(found.disk_bytes), time]


def _totals(named: Sequence[Named]) -> list[str]:
    """The sum over jobs; what lies in the cache counts once a job, which is the most it can be."""
    known = [one.found for one in named if one.found.plan is not None]
    lines = []
    if known:
        memory = max(one.peak_bytes for one in known)
        seconds = [one.seconds for one in known if one.seconds is not None]
        time = f", {span(sum(seconds))}" if len(seconds) == len(named) else ""
        jobs = f"{len(named)} runs: " if len(named) > 1 else "Together: "
        lines.append(
            f"{jobs}{gigabytes(memory)} of memory at most beside the program (about 1 GB), "
            f"{gigabytes(sum(one.disk_bytes for one in known))} of disk{time}"
        )
    for text in dict.fromkeys(text for one in named for text in one.found.unknown):
        lines.append(f"Not known: {text}")
    return lines
