"""What the edit gains against what it costs, along the way from the unedited to the edited model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edit_robust.evaluate.statistics.penalties import with_start
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import curve, depth_colors, gather, layers_of, numbered, pairs_and_seeds

NAME = "tradeoff"
TITLE = "What the edit gains against what it costs"
CAPTION = (
    "Up: accuracy on the edit's images. Right: accuracy on clean images of the original task. Each curve is one "
    "layer, from the unedited model (star) to the whole edit (large dot); small dots are the parts of the edit in "
    "between, means over pairs. The best corner is the upper right. A curve that bulges towards it gains more than it "
    "costs on the way, so that a part of the edit is the better bargain. (Figure 3 of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether the run measured the edit and the original task on images."""
    return len(curve(run).dropna(subset=["edit_accuracy", "original_accuracy"])) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a model and method, a curve a layer."""
    table = gather(runs).dropna(subset=["edit_accuracy", "original_accuracy"])
    several = table.model.nunique() > 1
    names = table.method if not several else table.model.astype(str) + ": " + table.method.astype(str)
    table = table.assign(panel=names)
    panels = list(numbered(table.panel))
    layers = layers_of(table)
    colors = depth_colors(layers)
    ncols = min(max(len(panels), 1), 3)
    nrows = max(-(-len(panels) // ncols), 1)
    figure, axes = style.panels(TITLE, nrows, ncols, width=6.4 if ncols == 1 else 3.8, height=3.1)
    if not panels:
        style.empty(axes[0][0])
        return figure
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    places = [(panel, layer) for panel in panels for layer in layers]
    curves = {(p, n): mean_curve(table[(table.panel == p) & (table.layer == n)]) for p, n in places}
    spread = limits([one for one in curves.values() if len(one)])
    for ax, panel in zip(axes.flat, panels, strict=False):
        rows = table[table.panel == panel]
        for layer in layers:
            if len(curves[panel, layer]):
                draw_curve(ax, curves[panel, layer], colors[layer])
        if style.empty(ax):
            continue
        ax.set_title(f"{panel}: {pairs_and_seeds(rows)}", fontsize=10)
        ax.set_xlabel(f"original task (n = {int(rows.drop_duplicates('seed').n_original.sum()):,})")
        ax.set_ylabel(f"edited images (n = {int(rows.drop_duplicates('unit').n_edit.sum()):,})")
        ax.set_xlim(*spread[0])
        ax.set_ylim(*spread[1])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    marks = [
        style.handle("unedited", style.INK, linestyle="none", marker="*", markersize=9),
        style.handle("the whole edit", style.GREY, linestyle="none", marker="o", markersize=7),
    ]
    style.legend(figure, [*(style.handle(name, colors[name]) for name in layers), *(marks if layers else [])])
    return figure


def mean_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over pairs at each alpha that all of them were measured at, with the unedited model as alpha 0."""
    if rows.empty:
        return rows
    every = pd.concat([with_start(one) for _, one in rows.groupby(["run", "request"])])
    by = every.groupby("alpha")[["edit_accuracy", "original_accuracy"]]
    full = by.size() == by.size().max()
    return 100 * by.mean()[full].sort_index()


def draw_curve(ax: Axes, one: pd.DataFrame, color: str) -> None:
    """Unedited to edited; a straight dotted line where nothing was measured in between."""
    x, y = one.original_accuracy.to_numpy(), one.edit_accuracy.to_numpy()
    between = len(one) > 2
    ax.plot(x, y, color=color, linewidth=1.7, linestyle="-" if between else (0, (1, 2)))
    ax.plot(x[1:-1], y[1:-1], color=color, linestyle="none", marker="o", markersize=3)
    ax.plot(x[-1:], y[-1:], color=color, linestyle="none", marker="o", markersize=7, markeredgecolor="white")
    ax.plot(x[:1], y[:1], color=style.INK, linestyle="none", marker="*", markersize=9, zorder=4)


def limits(drawn: Sequence[pd.DataFrame]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The same axes in all panels, a little wider than the curves."""
    found = []
    for name in ("original_accuracy", "edit_accuracy"):
        values = pd.concat([pd.Series(dtype=float), *(one[name] for one in drawn)]).dropna()
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 100.0)
        pad = max(1.0, 0.06 * (high - low))
        found.append((low - pad, min(high + pad, 100 + pad)))
    return found[0], found[1]
