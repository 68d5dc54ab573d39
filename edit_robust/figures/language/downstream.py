"""Figure 2 of the scaling paper (arXiv 2401.07453): what the model can still do as edits pile up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edit_robust.figures import endings, style
from edit_robust.figures.frame import RunData, is_sequence, rows, sequences, series
from edit_robust.figures.grouping import Group, groups

NAME = "downstream"
TITLE = "What the model can still do besides"
CAPTION = (
    "Weighted F1 on tasks that no edit is about, each under its own protocol (in brackets: how it is asked, and how "
    "many examples are shown). Solid: the model generates its answer, and one that names no option counts as wrong. "
    "Dashed: the likeliest option counts. Dotted: the unedited model. Grey: what needs no skill: always the same "
    "answer, a coin, and no valid answer (0 %)."
)
READINGS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("generated", {"linewidth": 2.0}, "generated answer"),
    ("likelihood", {"linewidth": 1.4, "linestyle": (0, (5, 2))}, "likeliest option"),
)
FLOORS: tuple[tuple[str, Any, str], ...] = (
    ("f1_coin", (0, (6, 2, 1, 2)), "a coin"),
    ("f1_constant", (0, (8, 3)), "always the same answer"),
)
COLUMNS = 4


def wants(run: RunData) -> bool:
    """Whether a sequence was asked downstream questions more than once."""
    asked = rows(run, scope="model", metric="f1_generated")
    return is_sequence(run) and asked["n_edits"].nunique() > 1


def probes(runs: Sequence[RunData]) -> list[str]:
    """The tasks with their protocols, in the order in which the runs ask them."""
    return list(dict.fromkeys(p for run in runs for p in rows(run, scope="model", metric="f1_generated")["probe"]))


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Weighted F1 of every task against the number of edits, one panel a task and protocol."""
    runs = sequences(runs)
    all_groups, names = groups(runs), probes(runs)
    n = max(len(names), 1)
    across = min(n, COLUMNS)
    figure, axes = style.panels(TITLE, -(-n // across), across)
    for ax, probe in zip(axes.flat, names, strict=False):
        draw_task(ax, probe, runs, all_groups)
    for ax in axes.flat[len(names) :]:
        if names:
            ax.set_visible(False)
        else:
            style.empty(ax)
    axes[0][0].set_ylabel("weighted F1")
    style.legend(figure, entries(all_groups) if names else [])
    return figure


def draw_task(ax: style.Axes, probe: str, runs: Sequence[RunData], all_groups: Sequence[Group]) -> None:
    """One panel: both readings of every group, the unedited model, and the floors."""
    for group in all_groups:
        for how, look, _ in READINGS:
            found = [series(run, scope="model", probe=probe, metric=f"f1_{how}") for run in group.runs]
            curve, color = style.combine(found), style.color_of(group.number)
            style.line(ax, curve, color, True, how == "generated", **look)
            if how == "generated":
                endings.mark(ax, group.runs, curve, color, percent=True)
    before = [mean([at_start(run, probe, "f1_generated") for run in group.runs]) for group in all_groups]
    style.levels(ax, before, [style.color_of(group.number) for group in all_groups])
    for metric, dash, _ in FLOORS:
        floor = mean([at_start(run, probe, metric) for run in runs])
        if np.isfinite(floor):
            ax.axhline(100 * floor, color=style.GREY, linewidth=0.9, linestyle=dash, zorder=1.2)
    ax.axhline(0, color=style.GREY, linewidth=0.9, zorder=1.2)
    name, _, protocol = probe.partition(":")
    ax.set_title(f"{name} ({protocol})")
    style.percent_axis(ax)
    style.count_axis(ax, "number of edits in the model")


def at_start(run: RunData, probe: str, metric: str) -> float:
    """A number of the unedited model; NaN where it was not measured."""
    values = series(run, x="step", scope="model", probe=probe, metric=metric)
    return float(values.loc[0]) if 0 in values.index else float("nan")


def mean(values: Sequence[float]) -> float:
    """The mean of the finite ones; NaN of none."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def entries(all_groups: Sequence[Group]) -> list[object]:
    """The legend: who is which colour, how answers are read, and what needs no skill."""
    return [
        *(style.handle(g.legend, style.color_of(g.number)) for g in all_groups),
        *(style.handle(words, **look) for _, look, words in READINGS),
        style.handle("unedited model", linestyle=":", linewidth=1.2),
        *(style.handle(words, linewidth=0.9, linestyle=dash) for _, dash, words in FLOORS),
        style.handle("no valid answer", linewidth=0.9),
        *style.band_handle(len(g.runs) for g in all_groups),
    ]
