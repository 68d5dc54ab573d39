"""Which layer to train for which task: the best bargain that each layer and the whole tower offer along alpha."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.common import counted
from edit_robust.figures.vision.patching_points import CLEAN, in_words, looks, points, shifts_of, wants

__all__ = ["CAPTION", "NAME", "TITLE", "bargains", "draw", "enough", "wants"]

NAME = "patching-layers"
TITLE = "Which layer to train for which task"
CAPTION = (
    "A row a layer, a column a task. In a cell: by how many percentage points the mean of two accuracies, of the "
    "taught task and of the panel's images of the original task, is higher than the unedited model's at the alpha "
    "that is best for it; below it that alpha. Means over seeds. The frame is around the best single layer for a "
    "task. Alphas are chosen on the images that are judged by, so that all cells are a little too high. (The vision "
    "paper asks which layer should be chosen, and leaves it open.)"
)


def bargains(table: pd.DataFrame) -> pd.DataFrame:
    """For every run and kind of images the alpha in [0, 1] with the largest mean of task accuracy and `accuracy`.

    table: see `points`.   Returns the columns of it at that alpha, and `score`: that mean, a fraction; `start`: the
    unedited model's.
    """
    rows = table[table.alpha <= 1 + 1e-9].assign(score=lambda one: (one.task + one.accuracy).astype(float) / 2)
    keys = ["run", "pair", "kind"]
    first = rows[rows.alpha < 1e-9].groupby(keys).score.mean().rename("start")
    ordered = rows.sort_values(["score", "alpha"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates(keys).merge(first, on=keys, how="left").reset_index(drop=True)


def enough(runs: Sequence[RunData]) -> bool:
    """Whether there are several places to choose from."""
    return points(runs).place.nunique() > 1


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A heat map a kind of images: places down, tasks across."""
    table = points(runs)
    kinds = [CLEAN, *shifts_of(table)] if len(table) else []
    found = bargains(table[table.kind.isin(kinds)])
    places, panels = list(looks(table)), sorted(table.panel.unique(), key=natural)
    width = float(np.clip(1.6 + 0.75 * len(panels), 2.8, 6.0))
    height = float(np.clip(1.0 + 0.36 * len(places), 1.8, 5.0))
    figure, axes = style.panels(TITLE, 1, max(len(kinds), 1), width=width, height=height)
    if not kinds:
        style.empty(axes[0][0])
        return figure
    gain = 100 * (found.score - found.start)
    found = found.assign(gain=gain)
    limit = max(1.0, float(found.groupby(["kind", "panel", "place"]).gain.mean().max()))
    for ax, kind in zip(axes[0], kinds, strict=True):
        rows = found[found.kind == kind]
        gains, alphas = (grid(rows, name, places, panels) for name in ("gain", "alpha"))
        ax.imshow(gains, cmap="Blues", vmin=0, vmax=limit, aspect="auto", interpolation="nearest")
        label_cells(ax, gains, alphas, limit)
        single = [i for i, name in enumerate(places) if not rows[rows.place == name].whole.any()]
        for j in range(len(panels)):
            known = [i for i in single if np.isfinite(gains[i, j])]
            if known:
                frame(ax, max(known, key=lambda i: gains[i, j]), j)
        ax.grid(False)
        ax.set_title(in_words(kind), fontsize=9.5)
        ax.set_xticks(range(len(panels)), panels, fontsize=8)
        ax.set_yticks(range(len(places)), places if ax is axes[0][0] else [""] * len(places), fontsize=8)
    seeds = counted(table.seed.nunique(), "seed")
    axes[0][0].set_ylabel(f"trained ({seeds})", fontsize=9)
    return figure


def grid(rows: pd.DataFrame, column: str, places: Sequence[str], panels: Sequence[str]) -> np.ndarray:
    """Means over seeds [places, tasks]; NaN where nothing was measured."""
    found = rows.pivot_table(index="place", columns="panel", values=column, aggfunc="mean")
    return found.reindex(index=list(places), columns=list(panels)).to_numpy(dtype=float)


def label_cells(ax: Axes, gains: np.ndarray, alphas: np.ndarray, limit: float) -> None:
    """The gain and the alpha in every cell, white on dark ones."""
    for (i, j), value in np.ndenumerate(gains):
        if np.isfinite(value):
            color = "white" if value > 0.6 * limit else style.INK
            text = f"{value:+.1f}\nat {alphas[i, j]:.2g}".replace("-", "−")
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=color, linespacing=1.1)


def frame(ax: Axes, i: int, j: int) -> None:
    """A frame around one cell."""
    ax.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=style.PALETTE[1], linewidth=2.0))
