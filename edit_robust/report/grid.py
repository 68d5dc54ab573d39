"""The columns of a run as one table, and those of many runs as one line each. Knows no measure by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edit_robust.core.data import Column
from edit_robust.evaluate import columns_images, columns_language
from edit_robust.evaluate.columns import END, UNEDITED, Summary, completed
from edit_robust.report.numbers import cell

Row = tuple[str, tuple[str, ...]]


class Summarised(Protocol):
    """A run, as read from its folder or as figures see it."""

    @property
    def summary(self) -> dict[str, Any]:
        """The flat summary, {} before the run is complete."""

    @property
    def columns(self) -> list[Column] | None:
        """The same with words and units; nothing where the run did not keep them."""


@dataclass(frozen=True)
class Grid:
    """Column titles, the rows of scores, and the rows of everything else; a cell is text or empty."""

    columns: tuple[str, ...]
    scores: tuple[Row, ...]
    others: tuple[Row, ...]


def columns_of(run: Summarised) -> list[Column]:
    """The columns that the run kept; for runs of older versions, which kept none, those that its summary gives."""
    return list(run.columns or described(run.summary))


def described(summary: Summary) -> list[Column]:
    """Columns for every number of a summary that some built-in measure can name; the others without a label."""
    language, images = columns_language, columns_images
    parts = (language.answers, language.forgetting, language.perplexity, language.drift, images.answers)
    found: dict[str, Column] = {}
    for part in (*parts, language.edits, language.resources):
        for column in part(summary):
            if column.key not in found or not found[column.key].label:
                found[column.key] = column
    return completed(summary, list(found.values()), summary)


def grid(columns: Sequence[Column], full: bool = False) -> Grid:
    """A row a label, a column a moment, in the order in which they come; the unedited model stands first.

    A value of no moment stands in the last column. full: with the columns that are not for the short table.
    """
    shown = [c for c in columns if c.label and c.value is not None and (full or c.brief)]
    shown.sort(key=lambda column: not column.score)
    moments = list(dict.fromkeys(c.moment for c in shown if c.moment))
    moments.sort(key=lambda moment: moment != UNEDITED)
    if moments in ([], [UNEDITED]) and any(not c.moment for c in shown):
        moments.append(END)
    scores, others = (rows([c for c in shown if c.score == kind], moments) for kind in (True, False))
    return Grid(tuple(moments), scores, others)


def rows(columns: Iterable[Column], moments: Sequence[str]) -> tuple[Row, ...]:
    """One row a label, with a cell a moment."""
    found: dict[str, list[str]] = {}
    for column in columns:
        cells = found.setdefault(column.label, [""] * len(moments))
        cells[moments.index(column.moment) if column.moment else -1] = cell(column)
    return tuple((label, tuple(cells)) for label, cells in found.items())


def side_by_side(runs: Sequence[Summarised], bare: bool = False) -> tuple[list[str], list[list[str]]]:
    """(headings, a line of cells for each run): the numbers that have a short heading, in the order they come.

    bare: the percent signs stand in the headings, so that the table gets narrow.
    """
    lines: list[dict[str, str]] = [{} for _ in runs]
    for run, line in zip(runs, lines, strict=True):
        for column in columns_of(run):
            text, heading = cell(column, brief=True), column.short
            if bare and text.endswith(" %"):
                text, heading = text.removesuffix(" %"), f"{heading} %"
            if column.short and text:
                line.setdefault(heading, text)
    headings = list(dict.fromkeys(heading for line in lines for heading in line))
    return headings, [[line.get(heading, "") for heading in headings] for line in lines]
