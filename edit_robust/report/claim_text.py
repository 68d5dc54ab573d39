"""Tables of claims as text: the same for every paper, but for what a unit is and what stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edit_robust.report.tables_language import Table


def cells(table: pd.DataFrame, counted: Sequence[str]) -> list[list[str]]:
    """The table as text: differences with their intervals, counts in words. counted: the columns of counts."""
    out = []
    for one in table.to_dict("records"):
        number = "" if not np.isfinite(one["difference"]) else f"{one['difference']:+.3f}"
        interval = f" [{one['low']:+.3f}, {one['high']:+.3f}]" if np.isfinite(one["low"]) else ""
        counts = " / ".join(str(one[name]) for name in counted) if one["units"] else ""
        out.append([one["claim"], one["at"], number + interval, counts, one["verdict"], one["note"]])
    return out


@dataclass(frozen=True)
class ClaimText:
    """How a table of claims is shown. name, title: of the table.   titles: of its columns.   counted: see `cells`."""

    name: str
    title: str
    note: str
    titles: tuple[str, ...]
    counted: tuple[str, ...]

    def as_table(self, table: pd.DataFrame) -> Table:
        """The claims as a page shows them."""
        lines = tuple(tuple(text.replace("|", "/") for text in line) for line in cells(table, self.counted))
        return Table(self.name, self.title, self.note, self.titles, lines)

    def to_markdown(self, table: pd.DataFrame) -> str:
        """The claims as a Markdown table with a paragraph on how to read it."""
        return f"{self.as_table(table).to_markdown()}\n{self.note}\n"
