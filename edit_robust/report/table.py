"""The table that a run ends with in the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from edit_robust.figures.frame import setting
from edit_robust.report import images
from edit_robust.report.numbers import grid


def summary_table(summary: dict[str, Any], config: dict[str, Any]) -> Table:
    """ES, PS, NS and S at every moment that was measured; below them forgetting, perplexity, drift and time.

    For image runs accuracies and penalties, see `report.images`.
    """
    cells = images.grid(summary) if images.is_image(summary) else grid(summary)
    names = [setting(config, f"{part}.name") for part in ("editor", "model", "task")]
    title = " · ".join(str(name) for name in names if name)
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None)
    table.add_column("", no_wrap=True)
    for column in cells.columns:
        table.add_column(column, justify="right", overflow="fold")
    for place, (words, values) in enumerate(cells.scores):
        table.add_row(words, *values, end_section=place == len(cells.scores) - 1)
    if cells.scores and cells.others:
        table.add_row()
    for words, values in cells.others:
        table.add_row(words, *values, style="dim")
    return table
