"""Effective robustness of patched models along alpha, against a line through unedited reference models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate.statistics.effective import Fit, effective_robustness, fit_band, fit_reference
from edit_robust.evaluate.statistics.paired import clopper_pearson, clustered_mean
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision import effective
from edit_robust.figures.vision.common import image_runs, points_axis
from edit_robust.figures.vision.patching_points import (
    Look,
    grid,
    in_words,
    legend,
    looks,
    mark_ends,
    panel_title,
    points,
    shifts_of,
)
from edit_robust.figures.vision.patching_shifts import wants

__all__ = ["CAPTION", "NAME", "TITLE", "draw", "enough", "rho", "wants"]

NAME = "patching-robustness"
TITLE = "Patching: effective robustness along alpha"
CAPTION = (
    "Up: rho, by how many percentage points accuracy under the shift lies above what standard models of the same clean "
    "accuracy have: a line through unedited reference models, both accuracies in logits. Right: alpha, from the "
    "unedited weights (0, star) to the fine-tuned ones (1, large dot); coloured where a single layer was trained, "
    "black where the whole image tower was. Where the curve falls, the edit costs more out of distribution than its "
    "loss of clean accuracy explains. Grey: how sure the line is, its 95 % bootstrap band over reference models. Bars "
    "beside alpha 1: 95 % t intervals over seeds, below three of them over images (Clopper-Pearson). A row a shift, a "
    "column a task."
)
MODELS = 3  # that a line needs at least
SEEDS = 3  # of two the t interval is too wide to tell anything


def rho(rows: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    """The rows of `points` with `rho` beside, a fraction."""
    return rows.assign(rho=effective_robustness(rows.original.to_numpy(), rows.accuracy.to_numpy(), fit))


def enough(runs: Sequence[RunData]) -> bool:
    """Whether reference models lie beside the runs, enough for a line."""
    models, kinds = effective.reference(image_runs(runs)), shifts_of(points(runs))
    return any(models[models.kind == kind].clean.nunique() >= MODELS for kind in kinds)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A row a shift, a column a task, a curve a place."""
    table, models = points(runs), effective.reference(image_runs(runs))
    known = models.groupby("kind").clean.nunique()
    kinds = [kind for kind in shifts_of(table) if known.get(kind, 0) >= MODELS] if len(table) else []
    figure, axes, panels = grid(TITLE, table, len(kinds), height=2.8)
    if not kinds:
        return figure
    drawn = looks(table)
    for i, kind in enumerate(kinds):
        some = models[models.kind == kind]
        fit = fit_reference(some.clean.to_numpy(), some.shifted.to_numpy())
        for j, panel in enumerate(panels):
            ax = axes[i][j]
            rows = rho(table[(table.panel == panel) & (table.kind == kind)], fit)
            for number, (place, look) in enumerate(drawn.items()):
                curve(ax, rows[rows.place == place], look, 0.02 * (number + 1))
            if style.empty(ax):
                continue
            baseline(ax, rows, some, fit)
            points_axis(ax, f"rho, {in_words(kind)}" if j == 0 else "")
            ax.yaxis.label.set_fontsize(9)
            ax.set_xlabel("alpha")
            if i == 0:
                ax.set_title(panel_title(panel, rows), fontsize=10)
            _reach(ax, rows, some)
    legend(figure, drawn)
    return figure


def _reach(ax: Axes, rows: pd.DataFrame, models: pd.DataFrame) -> None:
    """Says so where curves leave the clean accuracies between which the line was drawn."""
    low, high = float(models.clean.min()), float(models.clean.max())
    if float(rows.original.max()) > high or float(rows.original.min()) < low:
        text = f"clean accuracy goes beyond the line's\nmodels ({100 * low:.1f} to {100 * high:.1f} %)"
        ax.text(0.02, 0.02, text, transform=ax.transAxes, fontsize=7.5, color=style.GREY)


def curve(ax: Axes, rows: pd.DataFrame, look: Look, beside: float = 0.0) -> None:
    """The mean over runs of rho along alpha in percentage points, with an interval at the whole edit, drawn a little
    beside it so that those of several curves can be told apart."""
    if rows.empty:
        return
    mean = 100 * rows.groupby("alpha")[["rho"]].mean().sort_index()
    ax.plot(
        mean.index, mean.rho, color=look.color, linewidth=look.width, linestyle=look.dash, marker="o", markersize=2.8
    )
    mark_ends(ax, mean, "alpha", "rho", look)
    ends = rows[np.isclose(rows.alpha.astype(float), 1)]
    if ends.empty:
        return
    low, high = interval(ends)
    middle = 100 * float(ends.rho.mean())
    error = [[max(middle - 100 * low, 0.0)], [max(100 * high - middle, 0.0)]]
    look_: dict[str, Any] = {"fmt": "none", "ecolor": look.color, "elinewidth": 1.0, "capsize": 2.5}
    if np.isfinite(low) and np.isfinite(high):
        ax.errorbar([1.0 + beside], [middle], error, **look_)


def interval(ends: pd.DataFrame) -> tuple[float, float]:
    """Of rho at the whole edit: from SEEDS seeds on a t interval over seeds, each seed's runs averaged; of fewer over
    the images of one of them, about the mean."""
    if ends.seed.nunique() >= SEEDS:
        _, low, high = clustered_mean(ends.rho.to_numpy(dtype=float), list(ends.seed.astype(str)))
        return low, high
    accuracy, line = float(ends.accuracy.mean()), float((ends.accuracy - ends.rho).mean())
    low, high = clopper_pearson(accuracy * int(ends.n.iloc[0]), int(ends.n.iloc[0]))
    return low - line, high - line


def baseline(ax: Axes, rows: pd.DataFrame, models: pd.DataFrame, fit: Fit) -> None:
    """How far the line itself may lie from where it was drawn, at the clean accuracies along alpha: the widest of all
    curves at each alpha."""
    clean = rows.groupby("alpha").original.agg(["min", "max"]).sort_index().astype(float)
    ends = []
    for name in ("min", "max"):
        at = clean[name].to_numpy()
        low, high = fit_band(models.clean.to_numpy(), models.shifted.to_numpy(), at)
        ends.append((100 * (low - fit(at)), 100 * (high - fit(at))))
    lows, highs = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
    ax.fill_between(clean.index.to_numpy(dtype=float), lows, highs, color=style.GREY, alpha=0.16, linewidth=0)
