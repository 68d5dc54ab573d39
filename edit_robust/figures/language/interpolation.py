"""Between the unedited and the edited model: what a part of the edit already does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import PROBES, RunData, rows, series, unedited
from edit_robust.figures.grouping import groups
from edit_robust.figures.language.retention import draw_perplexity, perplexity

NAME = "interpolation"
TITLE = "From the unedited to the edited model"
CAPTION = (
    "The edit is applied to a part only: 0 is the unedited model, 1 the whole edit. Solid: the model prefers the right "
    "answer to the other one. Dashed: it gives the right answer by itself. A good stopping point keeps the left panel "
    "high while the others have not yet fallen."
)
LINES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("success", {"linewidth": 2.0}, "prefers the right answer"),
    ("accuracy", {"linewidth": 1.5, "linestyle": (0, (5, 2))}, "gives the right answer itself"),
    ("token_accuracy", {"linewidth": 1.5, "linestyle": (0, (1, 1.4))}, "share of the answer's tokens right"),
)
AXIS = "share of the edit applied (alpha)"


def along(runs: Sequence[RunData]) -> list[RunData]:
    """The runs that were measured at more than one share of their edit."""
    return [run for run in runs if rows(run, scope=("final", "model"))["alpha"].nunique() > 1]


def wants(run: RunData) -> bool:
    """Whether the run went from the unedited to the edited model in parts."""
    return bool(rows(run, scope="final")["alpha"].nunique() > 1)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Success and accuracy of the three probes, and perplexity where it was measured, against alpha."""
    runs = along(runs)
    all_groups = groups(runs)
    text = any(len(perplexity(run, "alpha")) > 1 for run in runs)
    figure, axes = style.panels(TITLE, *((2, 2) if text else (1, 3)), width=4.7 if text else 3.7)
    shown = shown_lines(runs)
    for ax, (probe, _, words) in zip(axes.flat, PROBES, strict=False):
        for group in all_groups:
            for metric, look, _ in shown:
                found = [series(run, "alpha", scope="final", probe=probe, metric=metric) for run in group.runs]
                style.line(ax, style.combine(found), style.color_of(group.number), True, metric == shown[0][0], **look)
        ax.set_title(words)
        if style.empty(ax):
            continue
        befores = [float(np.mean([unedited(run, probe, shown[0][0]) for run in group.runs])) for group in all_groups]
        style.levels(ax, befores, [style.color_of(group.number) for group in all_groups])
        style.percent_axis(ax)
    if text:
        draw_perplexity(axes[1][1], all_groups, "alpha")
    for ax in axes.flat:
        if ax.lines:
            ax.set_xlim(-0.03, 1.03)
            ax.set_xlabel(AXIS)
    style.legend(
        figure,
        [
            *(style.handle(group.legend, style.color_of(group.number)) for group in all_groups),
            *(style.handle(words, **look) for _, look, words in shown),
            *([style.handle("unedited model", linestyle=":", linewidth=1.2)] if all_groups else []),
            *style.band_handle(len(group.runs) for group in all_groups),
        ],
    )
    return figure


def shown_lines(runs: Sequence[RunData]) -> list[tuple[str, dict[str, Any], str]]:
    """Success and accuracy; token accuracy only for tasks that have no success rate."""
    have = [entry for entry in LINES if any(len(rows(run, scope="final", metric=entry[0])) for run in runs)]
    if any(entry[0] == "success" for entry in have):
        have = [entry for entry in have if entry[0] != "token_accuracy"]
    return have or [LINES[0]]
