"""The newest edit against all past edits, and what the whole sequence does to plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import endings, style
from edit_robust.figures.frame import (
    PROBES,
    RATES,
    RunData,
    is_sequence,
    rate_metric,
    sequences,
    series,
    trailing_mean,
    unedited,
)
from edit_robust.figures.grouping import Group, groups

NAME = "retention"
TITLE = "The newest edit, all past edits, and plain text"
CAPTION = (
    "Thin: the newest edit right after it was made (mean of the last 50). Thick: all edits made so far, asked again at "
    "this point. Diamond: all requests after the last edit. A gap between thin and thick is forgetting. The last "
    "panel is perplexity on plain text (lower is better; geometric mean over runs); an arrow at the top means that it "
    "was infinite."
)
WINDOW = 50


def wants(run: RunData) -> bool:
    """Whether a sequence looked back at its edits, looked at the end, or read plain text on the way."""
    later = series(run, scope=("retention", "final"), probe="edit", metric=rate_metric([run]))
    return is_sequence(run) and len(later) + len(perplexity(run)) > 0


def perplexity(run: RunData, x: str = "n_edits") -> pd.Series:
    """Perplexity on plain text along the run."""
    return series(run, x, scope="model", probe="text", metric="perplexity")


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """ES, PS and NS at the edit, kept and at the end; perplexity."""
    runs = sequences(runs)
    metric = rate_metric(runs)
    all_groups = groups(runs)
    figure, axes = style.panels(TITLE, 2, 2, width=4.7, height=2.75)
    for ax, (probe, short, words) in zip(axes.flat, PROBES, strict=False):
        for group in all_groups:
            draw_rates(ax, group, probe, metric, endings.longest(runs))
        nothing = style.empty(ax)
        befores = [float(np.mean([unedited(run, probe, metric) for run in group.runs])) for group in all_groups]
        if not nothing:
            style.levels(ax, befores, [style.color_of(group.number) for group in all_groups])
            style.percent_axis(ax)
            style.count_axis(ax, "number of edits in the model")
        ax.set_title(f"{words} ({short})" if metric == "success" else f"{words}{RATES[metric]}")
    draw_perplexity(axes[1][1], all_groups, "n_edits")
    if axes[1][1].lines:
        style.count_axis(axes[1][1], "number of edits in the model")
    if all_groups:
        style.legend(
            figure,
            [
                *(
                    style.handle(g.legend, style.color_of(g.number), linestyle=style.dash_of(g.number))
                    for g in all_groups
                ),
                style.handle("newest edit (mean of the last 50)", linewidth=0.9),
                style.handle("all edits so far", linewidth=2.2),
                style.handle("all requests at the end", linestyle="none", marker="D", markersize=5),
                style.handle("unedited model", linestyle=":", linewidth=1.2),
                *style.band_handle(len(group.runs) for group in all_groups),
            ],
        )
    return figure


def draw_rates(ax: Axes, group: Group, probe: str, metric: str, beside: float = 0.0) -> None:
    """One group in one panel: thin newest, thick kept, a diamond at the end."""
    color, dash = style.color_of(group.number), style.dash_of(group.number)
    newest = [trailing_mean(series(r, scope="at-edit", probe=probe, metric=metric), WINDOW) for r in group.runs]
    style.line(ax, style.combine(newest), color, True, False, linewidth=0.9, linestyle=dash, alpha=0.8)
    kept = [series(run, scope="retention", probe=probe, metric=metric) for run in group.runs]
    style.line(ax, curve := style.combine(kept), color, True, linewidth=2.2, linestyle=dash)
    endings.mark(ax, group.runs, curve, color, percent=True, beside=beside)
    ends = [series(run, scope="final", probe=probe, metric=metric).iloc[-1:] for run in group.runs]
    end = [(float(one.index[0]), float(one.iloc[0])) for one in ends if len(one)]
    if end:
        x, y = (float(np.mean(values)) for values in zip(*end, strict=True))
        look: dict[str, Any] = {
            "marker": "D",
            "markersize": 6,
            "markeredgecolor": "white",
            "linestyle": "none",
            "zorder": 4,
        }
        ax.plot([x], [100 * y], color=color, clip_on=False, **look)


def draw_perplexity(ax: Axes, all_groups: Sequence[Group], x: str) -> None:
    """Perplexity of every group on a log axis; infinite values as arrows at the top."""
    ax.set_title("Perplexity on plain text (log axis)")
    beside = endings.longest([run for group in all_groups for run in group.runs]) if x == "n_edits" else 0.0
    for group in all_groups:
        found = [perplexity(run, x) for run in group.runs]
        color, dash = style.color_of(group.number), style.dash_of(group.number)
        style.line(ax, curve := style.combine(found, log=True), color, linestyle=dash)
        endings.mark(ax, group.runs, curve, color, beside=beside)
    style.log_axis(ax)
    nothing = style.empty(ax)
    befores = [] if nothing else [first(group, x) for group in all_groups]
    style.levels(ax, befores, [style.color_of(group.number) for group in all_groups[: len(befores)]], percent=False)
    for group in all_groups:
        found = [perplexity(run, x) for run in group.runs]
        beyond = [float(place) for one in found for place in one.index[np.isinf(one)]]
        if beyond and not nothing:
            look: dict[str, Any] = {
                "marker": "^",
                "s": 30,
                "color": style.color_of(group.number),
                "clip_on": False,
                "zorder": 5,
            }
            ax.scatter(beyond, [0.98] * len(beyond), transform=ax.get_xaxis_transform(), **look)


def first(group: Group, x: str) -> float:
    """Perplexity before the first edit: at step 0."""
    found = [series(run, x, scope="model", probe="text", metric="perplexity", step=0) for run in group.runs]
    values = [float(one.iloc[0]) for one in found if len(one) and one.iloc[0] > 0]
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
