"""Where on the line accuracy breaks: at which alpha each layer's curve gives way, falls fastest, and learns fastest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate.statistics.breaks import falls_fastest, gives_way, rises_fastest
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.patching_points import (
    CLEAN,
    in_words,
    looks,
    panel_title,
    points,
    shifts_of,
)
from edit_robust.figures.vision.patching_points import wants as wants_points

NAME = "patching-breaks"
TITLE = "Patching: where on the line accuracy breaks"
#: The original task has given way once it is so far below the best that it had at smaller alphas.
MARGIN = 0.01
LEAST = 4  # alphas that a place on the line is told from
CAPTION = (
    "Right: alpha, from the unedited weights (0) to the fine-tuned ones (1) and beyond. A row a layer and the whole "
    "tower, a column a task, panels from top to bottom: clean images of the original task, and each shift of it. Bar: "
    f"where accuracy has fallen by {100 * MARGIN:g} point below the best that it had before (linear between alphas). "
    "Triangle down: the middle of the step in which it falls fastest. Triangle up: where the taught task is learnt "
    "fastest. Means over seeds, single seeds pale; what never falls has no mark. (The vision paper asks where on the "
    "line accuracy breaks, and leaves it open.)"
)
MARKS = {"gives_way": ("|", 16), "falls": ("v", 7), "learns": ("^", 7)}
#: How far below its row a mark stands, so that marks of one alpha can be told apart.
BELOW = {"gives_way": 0.0, "falls": 0.16, "learns": -0.16}


def wants(run: RunData) -> bool:
    """Whether a patched model was measured at enough alphas."""
    return wants_points(run) and points([run]).alpha.nunique() >= LEAST


def places_on_the_line(table: pd.DataFrame) -> pd.DataFrame:
    """For every run, task and kind of images the alphas of MARKS; table: see `points`; NaN where there is none."""
    rows = []
    keys = ["panel", "kind", "place", "whole", "run"]
    for key, one in table.groupby(keys):
        along = one.groupby("alpha")[["accuracy", "task"]].mean().astype(float).sort_index()
        alphas, accuracy = along.index.to_numpy(dtype=float), along.accuracy.to_numpy()
        found = {
            "gives_way": gives_way(alphas, accuracy, MARGIN),
            "falls": falls_fastest(alphas, accuracy),
            "learns": rises_fastest(alphas, along.task.to_numpy()),
        }
        rows.append(dict(zip(keys, key, strict=True)) | found)
    return pd.DataFrame(rows, columns=[*keys, *MARKS])


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A row of panels a kind of images, a column a task."""
    table = points(runs)
    kinds = [CLEAN, *shifts_of(table)] if len(table) else []
    panels, drawn = sorted(table.panel.unique(), key=natural), looks(table)
    names = list(drawn)
    ncols = max(len(panels), 1)
    height = float(np.clip(0.9 + 0.3 * len(names), 1.6, 5.0))
    figure, axes = style.panels(TITLE, max(len(kinds), 1), ncols, width=6.0 if ncols == 1 else 3.9, height=height)
    if not kinds:
        style.empty(axes[0][0])
        return figure
    found, end = places_on_the_line(table), float(table.alpha.max())
    for i, kind in enumerate(kinds):
        for j, panel in enumerate(panels):
            ax, rows = axes[i][j], found[(found.kind == kind) & (found.panel == panel)]
            for y, name in enumerate(names):
                _mark(ax, rows[rows.place == name], y, drawn[name].color)
            ax.set_xlim(-0.03 * end, 1.03 * end)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_yticks(range(len(names)), names if j == 0 else [""] * len(names), fontsize=8.5)
            task = panel_title(panel, table[table.panel == panel])
            ax.set_title(f"{task}\n{in_words(kind)}" if i == 0 else in_words(kind), fontsize=9.5)
            if i == len(kinds) - 1:
                ax.set_xlabel("alpha")
    look: dict[str, Any] = {"linestyle": "none", "color": style.GREY}
    words = {
        "gives_way": f"{100 * MARGIN:g} point below the best before",
        "falls": "falls fastest",
        "learns": "the taught task rises fastest",
    }
    entries = [style.handle(words[n], marker=m, markersize=s * 0.9, **look) for n, (m, s) in MARKS.items()]
    style.legend(figure, entries)
    return figure


def _mark(ax: Axes, rows: pd.DataFrame, y: float, color: str) -> None:
    """One place's marks: a mean, and single runs where there are several."""
    for name, (marker, size) in MARKS.items():
        values, at = rows[name].dropna().to_numpy(dtype=float), y + BELOW[name]
        look: dict[str, Any] = {"marker": marker, "color": color, "linestyle": "none", "markeredgewidth": 1.8}
        if marker != "|":
            look["markeredgewidth"] = 0.0
        if len(values) > 1:
            ax.plot(values, np.full(len(values), at), alpha=0.3, markersize=0.75 * size, **look)
        if len(values):
            ax.plot([values.mean()], [at], markersize=size, **look)
