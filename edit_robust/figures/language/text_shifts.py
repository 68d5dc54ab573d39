"""What shifts of text take from the edit (eq. 2) and from its neighbours (eq. 1), by severity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate import text_shift_numbers
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import Group, groups

NAME = "text-shifts"
TITLE = "The edit and its neighbours under shifts of text"
CAPTION = (
    "Share of questions whose right answer the model gives by itself (argmax under teacher forcing), right after each "
    "edit, by the severity of a shift; 0 is the plain question. Upper row: the edit's own question; what is lost from "
    "severity 0 on is eq. 2. Lower row: neighbouring questions; the gap to the unedited model (dotted, same colour) is "
    "eq. 1. One column a shift; a statement of the edit is put before neighbours alone."
)
ROWS = (("edit", "the edit's question"), ("original", "neighbouring questions"))
SCOPES = ("at-edit", "final")


def _table(tidy: pd.DataFrame) -> pd.DataFrame:
    """Rates by task, shift and severity: means over requests, right after each edit or else at the end."""
    for scope in SCOPES:
        found = text_shift_numbers.table(tidy, scope)
        if (found.severity > 0).any():
            return found
    return found


def table(run: RunData) -> pd.DataFrame:
    """Accuracies of a run by point, task, shift and severity, see `text_shift_numbers.table`."""
    return run.derive(_table)


def wants(run: RunData) -> bool:
    """Whether the run asked its questions under a shift of text."""
    return bool((table(run).severity > 0).any())


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A column a shift; the edit's question above, neighbours below."""
    runs = [run for run in runs if wants(run)]
    tables = [table(run) for run in runs]
    shifts = sorted({str(name) for one in tables for name in one[one.severity > 0]["shift"]})
    figure, axes = style.panels(TITLE, len(ROWS), max(len(shifts), 1), width=2.6, height=2.5)
    all_groups = groups(runs)
    for row, (probe, words) in enumerate(ROWS):
        for ax, shift in zip(axes[row], shifts or [""], strict=True):
            for group in all_groups:
                draw_group(ax, group, probe, shift)
            if not style.empty(ax, "not asked" if shifts else "nothing was measured here"):
                style.percent_axis(ax)
                ax.set_xticks(range(6))
                ax.set_xlabel("severity")
            if row == 0:
                ax.set_title(shift.replace("-", " "))
        axes[row][0].set_ylabel(words)
    if all_groups:
        handles = [
            style.handle(g.legend, style.color_of(g.number), linestyle=style.dash_of(g.number)) for g in all_groups
        ]
        dotted = style.handle("unedited model, same questions", linestyle=":", linewidth=1.2)
        style.legend(figure, [*handles, dotted, *style.band_handle(len(group.runs) for group in all_groups)])
    return figure


def draw_group(ax: Axes, group: Group, probe: str, shift: str) -> None:
    """Edited and unedited accuracy by severity, means over the group's runs."""
    color = style.color_of(group.number)
    look = {"accuracy": {"linestyle": style.dash_of(group.number)}, "unedited": {"linestyle": ":", "linewidth": 1.2}}
    for column, given in look.items():
        curves = [by_severity(table(run), probe, shift, column) for run in group.runs]
        style.line(ax, style.combine(curves), color, True, column == "accuracy", **given)


def by_severity(rates: pd.DataFrame, probe: str, shift: str, column: str) -> pd.Series:
    """Mean over a run's points, weighted by their requests; the plain question at 0. Empty where it was not asked."""
    own = rates[(rates.probe == probe) & rates[column].notna()]
    shifted = own[own["shift"] == shift]
    if shifted.empty:
        return pd.Series(dtype=float)
    rows = pd.concat([own[own["shift"] == "none"], shifted])
    means = rows.groupby("severity")[[column, "n"]].apply(lambda x: float(np.average(x[column], weights=x.n)))
    return pd.Series(means, dtype=float)
