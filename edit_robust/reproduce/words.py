"""What `edit-robust reproduce` prints: the list of all there is, and what a paper's own grid needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from edit_robust.reproduce.catalogue import Item
from edit_robust.reproduce.needs import Needs, Thing
from edit_robust.reproduce.plan import WORKERS, Plan, minutes, state


def listing(items: Sequence[Item], outputs: Path) -> Table:
    """Every figure and table: what it shows, how long it takes by itself, how far it is."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("paper/figure", no_wrap=True, style="bold")
    table.add_column("what it shows", overflow="fold", min_width=24)
    table.add_column("minutes", justify="right", no_wrap=True)
    table.add_column("quick", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=8)
    for item in items:
        whole, quick = (minutes([Plan(item, quick=one)]) for one in (False, True))
        last = item is [one for one in items if one.paper == item.paper][-1]
        table.add_row(item.place, item.title, said(whole), said(quick), state(outputs, item), end_section=last)
    return table


def said(value: float | None) -> str:
    """Minutes: `12`, `1.3`, or `?` where nothing like it was measured."""
    return "?" if value is None else f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def listing_note(items: Sequence[Item]) -> str:
    """How to read the minutes, and what all of it takes."""
    whole, quick = (minutes([Plan(item, quick=one) for item in items]) for one in (False, True))
    return (
        f"Minutes of {WORKERS} idle cores, for each by itself; runs that several share are made once, so that all of "
        f"these take {said(whole)} minutes, and {said(quick)} with --quick. Several papers share nothing."
    )


def needs_lines(found: Needs, runs: int, tflops: float) -> list[str]:
    """What a list of jobs needs, line by line."""
    lines = [f"{runs} runs."]
    for model, (n, one) in found.by_model.items():
        lines.append(
            f"{model}: {n} runs, {one.gpu_gb:.0f} GB of GPU memory, {one.gpu_hours:,.0f} GPU hours, "
            f"{one.disk_gb:,.0f} GB of disk" + (f", {one.cpu_hours:,.0f} hours of a core" if one.cpu_hours else "")
        )
    every = found.taken
    lines.append(
        f"Together: {every.gpu_hours:,.0f} GPU hours, at {tflops:g} TFLOP/s sustained in single precision (--tflops; "
        f"an estimate by docs/scale.md, not timed), and {every.disk_gb:,.0f} GB of disk."
    )
    gpu = "no GPU" if found.gpu_gb_here is None else f"a GPU of {found.gpu_gb_here:.0f} GB"
    lines.append(f"This machine has {gpu} and {found.disk_gb_here:,.0f} GB of free disk.")
    return lines


def things_table(things: Sequence[Thing]) -> Table:
    """Weights and data: what is here, what is fetched, what must be put somewhere."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("needs", "", "GB", "here", "where"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "GB" else "left")
    for one in things:
        here = "yes" if one.there else "will be fetched" if one.fetched else "MISSING"
        table.add_row(one.kind, one.name, f"{one.gb:g}", here, "" if one.there else one.where)
    return table


def lacking(found: Needs) -> list[str]:
    """What stands in the way, a line each: missing things, memory, disk."""
    lines = [f"{one.name} is missing: {one.where}" for one in found.missing]
    if found.gpu_gb_here is not None and found.gpu_gb_here < found.taken.gpu_gb:
        lines.append(f"GPU memory: {found.taken.gpu_gb:.0f} GB are needed, {found.gpu_gb_here:.0f} are there")
    if found.gpu_gb_here is None:
        lines.append("no GPU: a run on the processor would take months")
    if found.disk_gb_here < found.taken.disk_gb:
        lines.append(f"disk: {found.taken.disk_gb:,.0f} GB are needed, {found.disk_gb_here:,.0f} are free")
    return lines
