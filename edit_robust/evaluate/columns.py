"""A summary's numbers as columns: the helpers that every measure may use, and what every run has (edits, time).

The functions here and in `columns_language` and `columns_images` put words and units to the numbers of a flat summary.
A number that no table shows has a column without a label, so that none is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from edit_robust.core.data import Column

Summary = Mapping[str, float | int | None]
#: The moments that any run has: before the first edit, and after the last one.
UNEDITED, END = "unedited", "at the end"


def finite(summary: Summary, key: str) -> float | None:
    """A number of the summary, None when it is missing, NaN or infinite."""
    value = summary.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def unlabelled(summary: Summary, keys: Iterable[str]) -> list[Column]:
    """Columns that no table shows, for those of the keys that the summary has."""
    return [Column(key, finite(summary, key)) for key in keys if key in summary]


def completed(summary: Summary, columns: Sequence[Column], keys: Iterable[str]) -> list[Column]:
    """The columns, and behind them unlabelled ones for those of the keys that none of them is about."""
    known = {column.key for column in columns}
    return [*columns, *unlabelled(summary, (key for key in keys if key not in known))]


def edits(summary: Summary) -> list[Column]:
    """How many edits were made and refused, and means over them of what the editor told about each."""
    found = []
    if "n_refused" in summary:
        n = finite(summary, "n_refused")
        found.append(Column("n_refused", n, "edits refused" if n else "", unit="count"))
    return completed(summary, found, [key for key in summary if key == "n_edits" or key.startswith("mean_")])


def resources(summary: Summary) -> list[Column]:
    """Seconds of each phase of the run, and the peak memory."""
    words = {"seconds_edit": "time for editing", "seconds_evaluate": "time for measuring"}
    found = [Column(key, finite(summary, key), label, unit="seconds") for key, label in words.items() if key in summary]
    return completed(summary, found, [key for key in summary if key.startswith(("seconds_", "peak_memory_mb_"))])
