"""Figure 1 of the scaling paper (arXiv 2401.07453): how well the newest edit works as edits pile up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
from edit_robust.figures.grouping import Group, by_editor, groups

NAME = "scaling"
TITLE = "How well the newest edit works as edits pile up"
CAPTION = (
    "Each point is about the newest edit only, measured right after it was made. Thin lines average the last 5 edits, "
    "thick lines the last 50 (fewer where fewer exist). A thick line that falls means that the model has been edited "
    "so often that new edits no longer work as they did."
)
WINDOWS = (5, 50)
MANY = 4


def wants(run: RunData) -> bool:
    """Whether the run piles up edits and measured each right after it was made."""
    return is_sequence(run) and len(series(run, scope="at-edit", probe="edit", metric=rate_metric([run]))) > 0


def rows_of(all_groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """One row for all groups, or one an editor when there are many groups."""
    rows = by_editor(all_groups)
    return list(rows.items()) if len(all_groups) > MANY and len(rows) > 1 else [("", list(all_groups))]


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """ES, PS and NS of the newest edit against the number of edits."""
    runs = sequences(runs)
    metric = rate_metric(runs)
    grid, beside = rows_of(groups(runs)), endings.longest(runs)
    figure, axes = style.panels(TITLE, max(len(grid), 1), len(PROBES))
    longest = 0
    for row, (editor, members) in enumerate(grid):
        for ax, (probe, short, words) in zip(axes[row], PROBES, strict=True):
            for group in members:
                longest = max(longest, draw_group(ax, group, probe, metric, beside))
            nothing = style.empty(ax)
            befores = [float(np.mean([unedited(run, probe, metric) for run in group.runs])) for group in members]
            if not nothing:
                style.levels(ax, befores, [style.color_of(group.number) for group in members])
                style.percent_axis(ax)
                style.count_axis(ax, "number of edits in the model")
            name = f"{words} ({short})" if metric == "success" else f"{words}{RATES[metric]}"
            ax.set_title(f"{editor}: {name}" if editor else name)
    named = {group.label: group for _, members in grid for group in members}
    style.legend(figure, entries(list(named.values()), longest))
    return figure


def draw_group(ax: style.Axes, group: Group, probe: str, metric: str, beside: float = 0.0) -> int:
    """Both trailing means of one group; gives back how many edits its longest run has."""
    found = [series(run, scope="at-edit", probe=probe, metric=metric) for run in group.runs]
    color, dash = style.color_of(group.number), style.dash_of(group.number)
    for window, width, opacity in zip(WINDOWS, (0.8, 2.2), (0.55, 1.0), strict=True):
        curve = style.combine(trailing_mean(one, window) for one in found)
        style.line(ax, curve, color, True, window == WINDOWS[-1], linewidth=width, alpha=opacity, linestyle=dash)
    endings.mark(ax, group.runs, curve, color, percent=True, beside=beside)
    return max((int(one.index.max()) for one in found if len(one)), default=0)


def entries(all_groups: Sequence[Group], longest: int) -> list[object]:
    """The legend: who is which colour, and what the lines mean."""
    if not all_groups:
        return []
    thin, thick = (f"mean of the last {window} edits" for window in WINDOWS)
    if longest < WINDOWS[-1]:
        thick = f"mean of all edits so far (only {longest}, fewer than {WINDOWS[-1]})"
    return [
        *(style.handle(g.legend, style.color_of(g.number), linestyle=style.dash_of(g.number)) for g in all_groups),
        style.handle(thin, linewidth=0.8),
        style.handle(thick, linewidth=2.2),
        style.handle("unedited model", linestyle=":", linewidth=1.2),
        *style.band_handle(len(group.runs) for group in all_groups),
    ]
