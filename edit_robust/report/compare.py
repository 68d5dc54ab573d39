"""A comparison of editors in the terminal and as a file: .html with the figure, .md, .csv with all digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table

from edit_robust.core.errors import UserError
from edit_robust.core.files import write_text
from edit_robust.figures import FORMATS
from edit_robust.figures.board import Board, board, together
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.leaderboard import draw_board
from edit_robust.figures.style import save
from edit_robust.report.compare_cells import brief, cost_cells, cost_headings, difference, full, heading, notes
from edit_robust.report.compare_page import page
from edit_robust.runs.reader import Run

KINDS = (".html", ".md", ".csv")


def summary(found: Board) -> Table:
    """For the terminal: means with ranks."""
    table = Table(title=found.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("editor", style="bold", no_wrap=True)
    for one in found.metrics:
        table.add_column(heading(one), justify="right", no_wrap=True)
    for entry in found.entries:
        name = f"{entry.label} *" if entry.label == found.reference else entry.label
        table.add_row(name, *(brief(entry.marks[m.key], m) for m in found.metrics))
    return table


def costs(found: Board) -> Table:
    """For the terminal: what an edit cost."""
    table = Table(title="cost", title_justify="left", box=None, pad_edge=False)
    table.add_column("editor", style="bold", no_wrap=True)
    headings = cost_headings(found)
    for title in headings:
        table.add_column(title, justify="right")
    for entry in found.entries:
        table.add_row(entry.label, *(cost_cells(entry.cost)[h] for h in headings))
    return table


def differences(found: Board) -> Table:
    """For the terminal: each editor less the reference, with its interval."""
    title = f"less {found.reference} (*), paired over {found.n} {found.units}, 95 % intervals; bold: more than noise"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("editor", style="bold", no_wrap=True)
    for one in found.metrics:
        table.add_column(one.short, justify="right", overflow="fold")
    for entry in found.entries:
        if entry.label != found.reference:
            cells = [(difference(entry.marks[m.key], m), entry.marks[m.key].differs) for m in found.metrics]
            table.add_row(entry.label, *(f"[bold]{text}[/bold]" if clear else text for text, clear in cells))
    return table


def write_comparison(boards: Sequence[Board], path: Path) -> list[Path]:
    """Write the comparisons; a .md file's figures go beside it. Raises UserError for another kind of file."""
    if path.suffix not in KINDS:
        raise UserError(f"--out={path} must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path]
    if path.suffix == ".csv":
        write_text(path, pd.concat([frame(one) for one in boards], ignore_index=True).to_csv(index=False))
    elif path.suffix == ".md":
        parts = []
        for number, one in enumerate(boards):
            stem = path.with_suffix("")
            stem = stem.with_name(f"{stem.name}-{number + 1}" if len(boards) > 1 else stem.name)
            drawn = save(draw_board(one), stem, ["png"])
            written += drawn
            parts.append(markdown(one, drawn[0].name))
        write_text(path, "\n".join(parts))
    else:
        write_text(path, page(boards))
    return written


def markdown(found: Board, picture: str | None = None) -> str:
    """The table of means with intervals and ranks, what an edit cost, and the differences to the reference."""
    headings = cost_headings(found)
    lines = [f"### {found.title}", ""]
    if picture:
        lines += [f"![Editors side by side: {found.title}]({picture})", ""]
    lines += [_row(["editor", *(heading(m) for m in found.metrics), *headings])]
    lines += [_row(["---", *["---:"] * (len(found.metrics) + len(headings))])]
    for entry in found.entries:
        cells = [full(entry.marks[m.key], m) for m in found.metrics]
        lines.append(_row([entry.label, *cells, *(cost_cells(entry.cost)[h] for h in headings)]))
    lines += ["", *notes(found), ""]
    lines += [f"Less {found.reference}, paired; **bold**: more than noise.", ""]
    lines += [_row(["editor", *(m.short for m in found.metrics)]), _row(["---", *["---:"] * len(found.metrics)])]
    for entry in found.entries:
        if entry.label != found.reference:
            marks = [(difference(entry.marks[m.key], m), entry.marks[m.key].differs) for m in found.metrics]
            lines.append(_row([entry.label, *(f"**{text}**" if clear else text for text, clear in marks)]))
    return "\n".join([*lines, ""])


def frame(found: Board) -> pd.DataFrame:
    """A row an editor and number, with all digits."""
    rows = []
    for entry in found.entries:
        for m in found.metrics:
            mark = entry.marks[m.key]
            rank = mark.rank or (None, None)
            own = dict(zip(("value", "low", "high"), mark.value, strict=True))
            less = dict(zip(("difference", "difference_low", "difference_high"), mark.against, strict=True))
            ranks = {"best_rank": rank[0], "worst_rank": rank[1]}
            about = {"board": found.title, "editor": entry.label, "number": m.key, "unit": m.unit}
            rows.append({**about, **own, **less, **ranks, "against": found.reference, "n": found.n, **vars(entry.cost)})
    return pd.DataFrame(rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def boards(
    runs: Sequence[Run], against: str | None = None, by: str | None = None, grouped: bool = False
) -> list[Board]:
    """The comparison of complete runs, or with `grouped` one for each of the tasks and models that have two editors.

    Raises UserError where there is nothing to compare, and, unless grouped, for runs that were not asked the same.
    """
    data = [RunData.of(run) for run in runs if run.complete]
    if not data:
        raise UserError("none of these runs is complete")
    if not grouped:
        return [board(data, against, by)]
    several = [some for some in together(data) if len({str(setting(r.config, "editor")) for r in some}) > 1]
    if not several:
        raise UserError("no two editors among these runs were asked the same")
    return [board(some, against, by) for some in several]


def draw_to(found: Sequence[Board], path: Path) -> list[Path]:
    """Draw the comparisons, numbered where there are several. Raises UserError for another kind of file."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise UserError(f"--figure={path} must end in .{', .'.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for number, one in enumerate(found, start=1):
        stem = path.with_suffix("")
        stem = stem.with_name(f"{stem.name}-{number}") if len(found) > 1 else stem
        written += save(draw_board(one), stem, [path.suffix.removeprefix(".")])
    return written
