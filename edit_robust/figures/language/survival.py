"""How long edits last: the share not yet forgotten, against the number of later edits."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate.retention_matrix import Matrix
from edit_robust.evaluate.statistics.survival import Survival, lifetimes, survival
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import Group, groups
from edit_robust.figures.language import matrices

NAME = "survival"
TITLE = "How long edits last"
CAPTION = (
    "Share of the edits not yet forgotten (Kaplan and Meier's estimate, by the new answer's being the argmax), against "
    "how many edits came after; an edit that is forgotten at some check counts as such even if it comes back. First "
    "panel: all edits, with the 95 % interval. The others: edits by when they were made; later ones that last less "
    "were put into a model that was worn already. The small bar marks the end of what was looked at."
)
COHORTS = 4
#: From the first cohort to the last: other than the colours of groups.
SHADES = ("#a6cbe3", "#5596c8", "#1c5c9c", "#0b2545")


def wants(run: RunData) -> bool:
    """Whether a sequence kept what became of each of its edits."""
    return matrices.held(run)


def of_group(group: Group, cohort: int | None = None) -> Survival:
    """One curve over the runs of a group; of one of the `COHORTS`, or of all edits."""
    ages, died = [np.empty(0)], [np.zeros(0, dtype=bool)]
    for found in filter(None, map(matrices.matrix, group.runs)):
        rows = np.arange(len(found.taught)) if cohort is None else _rows(found, cohort)
        some = lifetimes(found.right[rows], found.taught[rows], found.made[rows], found.seen)
        ages.append(some[0])
        died.append(some[1])
    return survival(np.concatenate(ages), np.concatenate(died))


def _rows(found: Matrix, cohort: int) -> np.ndarray:
    parts = found.cohorts(COHORTS)
    return parts[cohort] if cohort < len(parts) else np.zeros(0, dtype=int)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """All edits of every group; beside it the cohorts, a panel a group."""
    all_groups = groups([run for run in runs if matrices.matrix(run) is not None])
    shown = all_groups[:5]
    total = 1 + max(len(shown), 1)
    ncols = min(total, 3)
    figure, axes = style.panels(TITLE, -(-total // ncols), ncols, width=4.2, height=3.1)
    places = list(axes.flat)
    for group in all_groups:
        step(places[0], of_group(group), style.color_of(group.number), style.dash_of(group.number), band=True)
    finish(places[0], "All edits")
    for ax, group in zip(places[1:], shown, strict=False):
        for cohort in range(COHORTS):
            step(ax, of_group(group, cohort), SHADES[cohort], style.DASHES[0])
        finish(ax, shorten(group.label, 36, placeholder=" ...") if len(all_groups) > 1 else "By when they were made")
    for ax in places[1 + len(shown) :]:
        if shown:
            ax.set_visible(False)
        else:
            finish(ax, "By when they were made")
    names = [style.handle(g.legend, style.color_of(g.number), linestyle=style.dash_of(g.number)) for g in all_groups]
    which = ("first", "second", "third", "last")
    parts = [style.handle(f"{word} quarter of the edits", SHADES[k]) for k, word in enumerate(which)]
    style.legend(figure, [*names, *(parts if all_groups else [])])
    return figure


def step(ax: Axes, found: Survival, color: str, dash: object, band: bool = False) -> None:
    """One curve as steps, drawn up to the last age that was looked at."""
    if not found.n:
        return
    age = np.append(found.age, found.end)
    alive, low, high = (100 * np.append(y, y[-1]) for y in (found.alive, found.low, found.high))
    ax.step(age, alive, where="post", color=color, linestyle=dash, linewidth=1.8)
    if band and found.n > 1:
        ax.fill_between(age, low, high, step="post", color=color, alpha=0.14, linewidth=0)
    ax.plot([age[-1]], [alive[-1]], marker="|", markersize=8, color=color, linestyle="none")


def finish(ax: Axes, title: str) -> None:
    ax.set_title(title)
    if not style.empty(ax):
        style.percent_axis(ax)
        style.count_axis(ax, "edits made since")
