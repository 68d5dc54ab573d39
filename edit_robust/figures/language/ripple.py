"""What follows from edits, and what must not: each kind of question before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from edit_robust.evaluate.moments import at_moments
from edit_robust.evaluate.ripple import PREFIX, PROTOCOLS
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import Group, groups

NAME = "ripple"
TITLE = "What follows from the edits, and what must not"
CAPTION = (
    "Questions that requests bring about what follows from their edit, by kind: bars right after each edit (at the end "
    "where nobody was asked before), diamonds after all edits, dotted lines the unedited model. Left: the right answer "
    "is preferred to another one; right: it is the model's own first choice (argmax under teacher forcing). After "
    "'not' (negation) the old answer is the right one; other facts about the subject (same-subject) should stay."
)
WIDTH = 0.8


def _kinds(tidy: pd.DataFrame) -> list[str]:
    return sorted({str(p) for p in tidy.probe if str(p).startswith(PREFIX)})


def wants(run: RunData) -> bool:
    """Whether the run asked such questions."""
    return bool(run.derive(_kinds))


def rate(run: RunData, probe: str, metric: str, moments: Sequence[str]) -> float:
    """Rate at the first of some moments (prefixes of the summary's keys) at which it was measured, else NaN."""
    found = at_moments(run.tidy, probe, metric)
    return next((found[m] for m in moments if m in found), float("nan"))


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a protocol, a cluster of bars a kind, a bar a group of runs."""
    runs = [run for run in runs if wants(run)]
    probes = sorted({p for run in runs for p in run.derive(_kinds)})
    all_groups = groups(runs)
    figure, axes = style.panels(TITLE, 1, len(PROTOCOLS), width=max(4.2, 0.9 * len(probes)), height=3.0)
    for ax, (metric, (_, protocol)) in zip(axes[0], PROTOCOLS.items(), strict=True):
        step = WIDTH / max(len(all_groups), 1)
        for group in all_groups:
            for x, probe in enumerate(probes):
                left = x - WIDTH / 2 + step * group.number
                draw_bar(ax, group, probe, metric, left, step)
        if not style.empty(ax):
            style.percent_axis(ax)
            ax.grid(False, axis="x")
            names = [p.removeprefix(PREFIX).replace("-", "\n") for p in probes]
            ax.set_xticks(range(len(probes)), names)
            ax.set_xlim(-0.6, len(probes) - 0.4)
        ax.set_title(protocol)
    if all_groups:
        bars = [style.Patch(color=style.color_of(g.number), label=g.legend) for g in all_groups]
        after = style.handle("after all edits", linestyle="none", marker="D", markersize=5)
        style.legend(figure, [*bars, after, style.handle("unedited model", linestyle=":", linewidth=1.4)])
    return figure


def draw_bar(ax: style.Axes, group: Group, probe: str, metric: str, left: float, width: float) -> None:
    """One kind of one group: its bar, the unedited model's level, and a diamond at the end."""
    newest, before, end = (
        float(np.mean([100 * rate(run, probe, metric, moments) for run in group.runs]))
        for moments in (("", "final_"), ("unedited_",), ("final_",))
    )
    if np.isfinite(newest):
        ax.bar(left + width / 2, newest, 0.92 * width, color=style.color_of(group.number), alpha=0.85)
    if np.isfinite(before):
        ax.plot([left, left + width], [before, before], color=style.INK, linestyle=":", linewidth=1.4)
    if np.isfinite(end):
        look = {"marker": "D", "markersize": 5, "markeredgecolor": "white", "zorder": 4}
        ax.plot([left + width / 2], [end], color=style.color_of(group.number), **look)  # type: ignore[arg-type]
