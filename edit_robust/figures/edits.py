"""Every single edit: how large it was, and how close the editor came to dividing by nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData, rows
from edit_robust.figures.grouping import Group, groups

NAME = "edits"
TITLE = "Every single edit"
CAPTION = (
    "One dot an edit. Left: how much the edit changed the weights (Frobenius norm over all edited layers). Right: the "
    "number that a rank-one editor divides by; an edit with a very small one is very large, and often the one that "
    "breaks the model. Crosses at the bottom mark edits that the editor refused. A dotted line stands where the "
    "model broke."
)
PANELS = (("delta_norm", "Size of the edit ‖Δ‖ (log axis)"), ("division_factor", "Division factor (log axis)"))
SIZES = tuple(metric for metric, _ in PANELS)


def wants(run: RunData) -> bool:
    """Whether the editor told about its edits, and about each once: parts of an edit are not edits."""
    found = told(run, SIZES)
    return len(found) > 0 and found["alpha"].nunique() == 1


def told(run: RunData, metric: str | tuple[str, ...]) -> pd.DataFrame:
    """What the editor told about its edits, for whichever request; `number` counts the steps that made one."""
    everything = rows(run, None, scope="at-edit", metric=(*SIZES, "refused"))
    numbers = {step: place for place, step in enumerate(sorted(everything["step"].unique()), 1)}
    found = rows(run, None, scope="at-edit", metric=metric)
    return found.assign(number=found["step"].map(numbers))


def per_edit(run: RunData, metric: str) -> pd.Series:
    """One value an edit: layers add up as squares for norms; of division factors the smallest counts."""
    found = told(run, metric).drop_duplicates(["step", "layer"], keep="last")
    value = pd.to_numeric(found["value"], errors="coerce").astype(float).abs()
    each = value.groupby(found["number"])
    out = each.apply(lambda one: float(np.sqrt((one**2).sum()))) if metric == "delta_norm" else each.min()
    return out[np.isfinite(out) & (out > 0)]


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Norm and division factor of every edit against its number; refused edits as crosses."""
    all_groups = groups(runs)
    kept = [panel for panel in PANELS if any(len(per_edit(run, panel[0])) for run in runs)] or [PANELS[0]]
    figure, axes = style.panels(TITLE, 1, len(kept), width=4.7, height=3.1)
    any_refused = False
    for ax, (metric, title) in zip(axes[0], kept, strict=True):
        for group in all_groups:
            color = style.color_of(group.number)
            for run in group.runs:
                dots = per_edit(run, metric)
                size = 14.0 if len(dots) <= 300 else 5.0
                if len(dots):
                    ax.scatter(dots.index, dots.to_numpy(), s=size, color=color, alpha=0.55, linewidths=0)
        style.log_axis(ax)
        ax.set_title(title)
        if style.empty(ax):
            continue
        for group in all_groups:
            any_refused |= mark_refused(ax, group.runs, style.color_of(group.number))
            mark_broken(ax, group.runs, style.color_of(group.number))
        if any_refused:
            low, high = np.log(ax.get_ylim())
            ax.set_ylim(float(np.exp(low - 0.06 * (high - low))))
        style.count_axis(ax, "edit number")
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5}
    cross: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 5, "markeredgewidth": 1.3}
    entries = [style.handle(label_of(g), style.color_of(g.number), **dot) for g in all_groups]
    style.legend(figure, entries + ([style.handle("edit refused", **cross)] if any_refused else []))
    return figure


def label_of(group: Group) -> str:
    """Dots are single runs, so the legend counts runs and speaks of no mean."""
    runs = len(group.runs)
    return f"{group.label} ({runs} runs)" if runs > 1 else group.label


def mark_broken(ax: style.Axes, runs: Sequence[RunData], color: str) -> None:
    """A dotted line at the edit at which a run's model broke."""
    for run in runs:
        edit = run.summary.get("inflection_edit")
        if isinstance(edit, int | float):
            ax.axvline(edit, color=color, linewidth=1.2, linestyle=":", zorder=1.5)


def mark_refused(ax: style.Axes, runs: Sequence[RunData], color: str) -> bool:
    """Crosses along the bottom of the panel at the refused edits; true when there are any."""
    found = [told(run, "refused").drop_duplicates("step", keep="last") for run in runs]
    steps = [float(number) for one in found for number in one["number"][one["value"] > 0]]
    if steps:
        look: dict[str, Any] = {
            "marker": "x",
            "s": 26,
            "color": color,
            "linewidths": 1.3,
            "clip_on": False,
            "zorder": 5,
        }
        ax.scatter(steps, [0.02] * len(steps), transform=ax.get_xaxis_transform(), **look)
    return bool(steps)
