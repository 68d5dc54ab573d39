"""A map of layers and parts of the edit: what each gains, and what it costs under each shift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from edit_robust.evaluate.statistics.penalties import MODEL, pareto_front
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import counted, gather, layers_of, numbered, scores, signed, words

NAME = "layer-map"
TITLE = "Layer by layer: what the edit gains and what it costs"
CAPTION = (
    "Change of accuracy against the unedited model in percentage points, a row a layer, a column a part of the edit "
    "(alpha), means over pairs: blue is better, red is worse. First column of panels: the edit's own images. The "
    "others: the original task, clean, under corruptions (mean over all kinds and severities) and on natural shifts. "
    "Frames mark the Pareto front: places that no other layer and alpha of this method beats on the edit and on this "
    "panel at once."
)
CLEAN, CORRUPTED = "original task, clean", "original, corrupted"


def wants(run: RunData) -> bool:
    """Whether the run measured an edited image classifier."""
    return len(scores(run)) > 0


def enough(runs: Sequence[RunData]) -> bool:
    """Whether there are several layers, or several parts of an edit."""
    table = gather(runs)
    return len(table) > 0 and (table.layer.nunique() > 1 or bool(table.groupby("run").alpha.nunique().max() > 1))


def changes(runs: Sequence[RunData]) -> pd.DataFrame:
    """model, method, layer, alpha, what, change: in percentage points, means over pairs (first over corruptions)."""
    table = gather(runs, shifts=True)
    if table.empty:
        return pd.DataFrame(columns=["panel", "layer", "alpha", "what", "change", "pairs"])
    natural = table["shift"].map(lambda name: f"original, {words(str(name))}")
    what = np.select(
        [table.probe == "edit", table["shift"] == "none", table.severity > 0],
        ["edited images", CLEAN, CORRUPTED],
        natural,
    )
    table = table[(table.probe == "original") | (table["shift"] == "none")].assign(what=pd.Series(what, table.index))
    table = table.assign(change=100 * (table.accuracy - table.unedited).astype(float))
    several = table.model.nunique() > 1
    panel = table.method if not several else table.model.astype(str) + ": " + table.method.astype(str)
    keys = ["panel", "layer", "alpha", "what"]
    one = table.assign(panel=panel, layer=table.layer.astype(str)).groupby([*keys, "unit", *MODEL[:1]], as_index=False)
    each = one.change.mean()
    out = each.groupby(keys, as_index=False).agg(change=("change", "mean"), pairs=("unit", "nunique"))
    return out[out.alpha > 0]


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A row of heat maps a method, one map a kind of images."""
    table = changes(runs)
    panels = list(numbered(table.panel))
    kinds = ["edited images", CLEAN, CORRUPTED]
    kinds = [one for one in [*kinds, *sorted(set(table.what) - set(kinds))] if one in set(table.what)]
    layers, alphas = layers_of(table), sorted(table.alpha.unique())
    width = float(np.clip(0.9 + 0.34 * len(alphas), 2.3, 4.6))
    height = float(np.clip(0.85 + 0.27 * len(layers), 1.5, 4.5))
    figure, axes = style.panels(TITLE, max(len(panels), 1), max(len(kinds), 1), width=width, height=height)
    if table.empty:
        style.empty(axes[0][0])
        return figure
    limit = max(1.0, float(table.change.abs().max()))
    image = None
    for number, panel in enumerate(panels):
        row = axes[number]
        rows = table[table.panel == panel]
        gain = grid(rows, "edited images", layers, alphas)
        for ax, kind in zip(row, kinds, strict=True):
            values = grid(rows, kind, layers, alphas)
            image = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            against = grid(rows, CLEAN, layers, alphas) if kind == kinds[0] else values
            frame(ax, gain, against)
            label_cells(ax, values, limit)
            ax.grid(False)
            ax.set_title(kind, fontsize=9.5)
            ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas], fontsize=8)
            ax.set_yticks(range(len(layers)), layers if ax is row[0] else [""] * len(layers), fontsize=8)
            if number == len(panels) - 1:
                ax.set_xlabel("part of the edit (alpha)", fontsize=9)
        row[0].set_ylabel(f"{panel}\n{counted(int(rows.pairs.max()), 'pair')}", fontweight="bold", fontsize=9)
    if image is not None:
        bar = figure.colorbar(image, ax=axes.ravel().tolist(), fraction=0.025, pad=0.01, aspect=28)
        bar.ax.yaxis.set_major_formatter(style.FuncFormatter(lambda value, _: signed(value)))
        bar.set_label("change, percentage points", fontsize=9)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def grid(rows: pd.DataFrame, kind: str, layers: Sequence[str], alphas: Sequence[float]) -> np.ndarray:
    """Values [layers, alphas] of one panel; NaN where nothing was measured."""
    found = rows[rows.what == kind].pivot_table(index="layer", columns="alpha", values="change", aggfunc="mean")
    return found.reindex(index=list(layers), columns=list(alphas)).to_numpy(dtype=float)


def frame(ax: Axes, gain: np.ndarray, values: np.ndarray) -> None:
    """Frames around the cells on the Pareto front of gain on the edit and change on this panel's images."""
    front = pareto_front(np.stack([gain.ravel(), values.ravel()], axis=1)).reshape(gain.shape)
    for i, j in np.argwhere(front):
        box = Rectangle((j - 0.44, i - 0.44), 0.88, 0.88, fill=False, edgecolor=style.INK, linewidth=1.5)
        ax.add_patch(box)


def label_cells(ax: Axes, values: np.ndarray, limit: float) -> None:
    """Numbers in the cells, white on dark ones, as long as they are legible."""
    if values.size > 110:
        return
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = f"{value:+.0f}".replace("-", "−") if abs(value) >= 0.5 else "0"
            color = "white" if abs(value) > 0.6 * limit else style.INK
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
