"""Tasks patched one after the other: every task's accuracy, and the original one's, after each of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edit_robust.figures import style
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import groups
from edit_robust.figures.vision.common import numbered

NAME = "patching-row"
TITLE = "Patching: tasks taught one after the other"
CAPTION = (
    "Up: accuracy on each task's images, and on clean images of the original task (black). Right: how many tasks have "
    "been taught; the ring is around the point at which a task has just been taught. What falls after its ring is "
    "forgotten. A panel a way of editing, means over seeds; bands go from the lowest to the highest seed."
)
TASK, ORIGINAL = "task", "original task"


def rows_of(run: RunData) -> pd.DataFrame:
    """name, n_edits, accuracy of the tasks and of the original one, and `taught`: the edit that taught the task."""
    tidy = run.tidy
    clean = tidy[(tidy.metric == "accuracy") & tidy["shift"].isin(["none", ""]) & (tidy.alpha == 1)]
    tasks = clean[clean.probe == TASK]
    order = list(dict.fromkeys(tasks.request))
    own = clean[(clean.probe == "original")].drop_duplicates("n_edits", keep="last")
    found = pd.concat([tasks.assign(name=tasks.request), own.assign(name=ORIGINAL)])
    found = found.assign(taught=found.name.map({name: i + 1 for i, name in enumerate(order)}))
    return found[["name", "n_edits", "value", "taught"]].rename(columns={"value": "accuracy"})


def wants(run: RunData) -> bool:
    """Whether several tasks were taught, and measured after each."""
    tidy = run.tidy
    if not (tidy.probe == TASK).any() or (tidy.alpha != 1).any():
        return False
    return tidy[tidy.probe == TASK].n_edits.nunique() > 2


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a way of editing, a curve a task."""
    gathered = groups(runs)
    ncols = min(max(len(gathered), 1), 3)
    nrows = max(-(-len(gathered) // ncols), 1)
    figure, axes = style.panels(TITLE, nrows, ncols, width=6.0 if ncols == 1 else 3.9, height=3.2)
    tables = {id(run): rows_of(run) for run in runs}
    names = numbered(n for one in tables.values() for n in one.name if n != ORIGINAL)
    colors = {name: style.color_of(number) for name, number in names.items()} | {ORIGINAL: style.INK}
    for place, ax in enumerate(axes.flat):
        if place >= max(len(gathered), 1):
            ax.set_visible(False)
            continue
        for name, color in colors.items():
            mine = [t[t.name == name] for t in (tables[id(run)] for run in (gathered[place].runs if gathered else ()))]
            curve = style.combine(one.groupby("n_edits").accuracy.mean().astype(float) for one in mine)
            style.line(ax, curve, color, percent=True, linewidth=2.4 if name == ORIGINAL else 1.6)
            for one in mine:
                just = one[one.n_edits == one.taught]
                ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
                ax.plot(just.n_edits, 100 * just.accuracy.astype(float), color=color, **ring)
        if style.empty(ax):
            continue
        style.percent_axis(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("tasks taught")
        ax.set_ylabel("accuracy")
        editor = str(setting(gathered[place].runs[0].config, "editor.name"))
        ax.set_title(gathered[place].legend if len(gathered) > 1 else editor, fontsize=10)
    style.legend(figure, [style.handle(name, color) for name, color in colors.items()] if tables else [])
    return figure
