"""Could one have known? The warning signs of single edits, and what the edits then did to the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from edit_robust.core.signs import Sign, known
from edit_robust.evaluate.single_edits import harms, risks
from edit_robust.evaluate.statistics.roc import Auc, auc, roc
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import Group, groups

NAME = "warning-signs"
TITLE = "Warning signs of single edits, and what the edits did"
CAPTION = (
    "Each edit was made alone in the unedited model. Above: one dot an edit, its sign, known before it is applied, "
    "against the perplexity of the model with it; the dotted line is twice the unedited perplexity. Below: how many of "
    "the edits that broke the model (perplexity doubled, or a quarter of the neighbouring facts lost) a guard at every "
    "possible line would have stopped, against how many harmless ones. AUC 0.5 is chance, 1 tells all; the brackets "
    "are 95 % intervals."
)
AXES = {"division_factor": "division factor |k'·u|", "cos_bare_mean": "cosine of bare and mean key"}


def wants(run: RunData) -> bool:
    """Whether the run made edits apart from each other, told a sign of them, and measured what they did."""
    table = run.derive(harms)
    return len(table) > 1 and len(known(table.columns)) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Sign against perplexity, and the ROC curve, for every sign."""
    tables = {group: joined(group) for group in groups(runs)}
    signs = known({column for table in tables.values() for column in table.columns})
    figure, axes = style.panels(TITLE, 2, max(len(signs), 1), width=3.0, height=2.7)
    for place, sign in enumerate(signs):
        scatter(axes[0][place], tables, sign)
        curve(axes[1][place], tables, sign)
    if not signs:
        for row in axes:
            style.empty(row[0])
    axes[0][0].set_ylabel("perplexity with the edit")
    axes[1][0].set_ylabel("breaking edits stopped")
    dot = {"linestyle": "none", "marker": "o", "markersize": 4.5}
    style.legend(figure, [style.handle(g.legend, style.color_of(g.number), **dot) for g in tables])
    return figure


def joined(group: Group) -> pd.DataFrame:
    """The edits of a group's runs in one table."""
    found = [run.derive(harms) for run in group.runs]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def scatter(ax: style.Axes, tables: dict[Group, pd.DataFrame], sign: Sign) -> None:
    """One dot an edit; both axes logarithmic but for cosines."""
    for group, table in tables.items():
        if sign.key not in table:
            continue
        x = table[sign.key].abs().to_numpy(dtype=float)
        y = table.perplexity.to_numpy(dtype=float)
        good = np.isfinite(x) & np.isfinite(y) & (x > 0)
        if not good.any():
            continue
        color = style.color_of(group.number)
        ax.scatter(x[good], y[good], s=12, color=color, alpha=0.5, linewidths=0)
    ax.set_title(AXES.get(sign.key, sign.label), fontsize=9.5)
    if style.empty(ax):
        return
    style.log_axis(ax)
    if sign.key != "cos_bare_mean":
        style.log_x(ax)
    befores = [run.summary.get("unedited_perplexity") for group in tables for run in group.runs]
    known_before = [float(b) for b in befores if isinstance(b, int | float)]
    if known_before:
        style.levels(ax, [2 * float(np.median(known_before))], [style.GREY], percent=False)


def curve(ax: style.Axes, tables: dict[Group, pd.DataFrame], sign: Sign) -> None:
    """The ROC curve of every group that had both kinds of edits, with its area in the panel."""
    texts = []
    for group, table in tables.items():
        risk, broke = risks(table, sign)
        area = auc(risk, broke)
        if area is None:
            continue
        false, true = roc(risk, broke)
        color = style.color_of(group.number)
        ax.plot(100 * false, 100 * true, color=color, linewidth=1.8, linestyle=style.dash_of(group.number))
        texts.append((words(area), color))
    if style.empty(ax, "no edit broke the model, or all did"):
        return
    ax.plot([0, 100], [0, 100], color=style.GREY, linewidth=0.8, linestyle=":")
    for line, (text, color) in enumerate(reversed(texts)):
        ax.text(0.97, 0.05 + 0.09 * line, text, transform=ax.transAxes, ha="right", color=color, fontsize=8.5)
    style.percent_axis(ax)
    ax.set_xlim(-3, 103)
    ax.set_xlabel("harmless edits stopped (%)")


def words(area: Auc) -> str:
    """`AUC 0.97 [0.91, 0.99]`."""
    return f"AUC {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"
