"""The table that a run ends with in the terminal."""

from __future__ import annotations

from rich.table import Table

from edit_robust.figures.frame import RunData, setting
from edit_robust.report.grid import columns_of, grid


def summary_table(run: RunData) -> Table:
    """The scores at every moment that was measured; below them everything else, such as perplexity, drift and time."""
    cells = grid(columns_of(run))
    names = [setting(run.config, f"{part}.name") for part in ("editor", "model", "task")]
    title = " · ".join(str(name) for name in names if name)
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None)
    table.add_column("", overflow="fold")
    lines = [values for _, values in cells.scores] + [values for _, values in cells.others]
    for i, column in enumerate(cells.columns):  # words may be broken, numbers not
        widest = max((len(str(values[i])) for values in lines if i < len(values)), default=0)
        table.add_column(column, justify="right", overflow="fold", min_width=widest, max_width=max(widest, 10))
    for place, (words, values) in enumerate(cells.scores):
        table.add_row(words, *values, end_section=place == len(cells.scores) - 1)
    if cells.scores and cells.others:
        table.add_row()
    for words, values in cells.others:
        table.add_row(words, *values, style="dim")
    return table
