"""What the model writes as edits pile up: answers in its own words, repetition, and drifting predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData, is_sequence, sequences, series, trailing_mean
from edit_robust.figures.grouping import Group, groups

NAME = "generation"
TITLE = "What the model writes as edits pile up"
CAPTION = (
    "Upper left: the newest edit's question, answered freely until the model ends (solid: exact match) and under "
    "teacher forcing, which tells it the answer's beginning and length (dashed: every token argmax); means of the "
    "last 50. Upper right: n-gram entropy (GE) of sampled text about the newest edit, mean of the last 50; low for "
    "text that repeats itself. Lower left: that text's likeness to texts about the new answer (RS). Lower right: KL of "
    "the predictions on plain text from the unedited model's, in nats per token. Dotted: the unedited model."
)
WINDOW = 50
PROBE = "generation"


def newest(metric: str, probe: str) -> Callable[[RunData], pd.Series]:
    """A number about the newest edit: its trailing mean along a run."""
    return lambda run: trailing_mean(series(run, scope="at-edit", probe=probe, metric=metric), WINDOW)


#: Title, whether it is a share, and the lines: how to read one of a run, the unedited model's, dashed or not.
PANELS: tuple[tuple[str, bool, tuple[tuple[str, str], ...]], ...] = (
    ("the edit's question: generated, teacher forced", True, (
        ("edit", "exact_generated"), ("edit", "accuracy_teacher_forced"))),
    ("n-gram entropy (GE, bits), sampled", False, ((PROBE, "entropy_sampled"),)),
    ("likeness to texts about the new answer (RS), sampled", False, ((PROBE, "reference_score_sampled"),)),
)  # fmt: skip


def kl(run: RunData) -> pd.Series:
    """KL from the unedited model on plain text along a run."""
    return series(run, scope="model", probe="text", metric="kl")


def wants(run: RunData) -> bool:
    """Whether a sequence wrote something, or compared its predictions."""
    written = (series(run, scope="at-edit", probe=p, metric=m) for _, _, lines in PANELS for p, m in lines)
    return is_sequence(run) and (any(len(one) for one in written) or len(kl(run)) > 0)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Four panels against the number of edits."""
    all_groups = groups([run for run in sequences(runs) if wants(run)])
    figure, axes = style.panels(TITLE, 2, 2, width=4.7, height=2.75)
    for ax, (title, share, lines) in zip(axes.flat, PANELS, strict=False):
        for number, (probe, metric) in enumerate(lines):
            for group in all_groups:
                draw_line(ax, group, probe, metric, share, "--" if number else "-")
        finish(ax, title, share)
    for group in all_groups:
        style.line(axes[1][1], style.combine(kl(run) for run in group.runs), style.color_of(group.number))
    finish(axes[1][1], "KL from the unedited model (nats per token)", False)
    if all_groups:
        dotted = style.handle("unedited model", linestyle=":", linewidth=1.2)
        named = [style.handle(g.legend, style.color_of(g.number)) for g in all_groups]
        kinds = [style.handle("generated"), style.handle("teacher forced", linestyle="--"), dotted]
        style.legend(figure, [*named, *kinds, *style.band_handle(len(group.runs) for group in all_groups)])
    return figure


def draw_line(ax: Axes, group: Group, probe: str, metric: str, share: bool, dash: str) -> None:
    """One number of one group, and the unedited model's level."""
    color, read = style.color_of(group.number), newest(metric, probe)
    style.line(ax, style.combine(read(run) for run in group.runs), color, share, dash == "-", linestyle=dash)
    before = [series(run, x="step", scope="unedited", probe=probe, metric=metric) for run in group.runs]
    values = [float(one.iloc[0]) for one in before if len(one)]
    if values and dash == "-":
        style.levels(ax, [sum(values) / len(values)], [color], percent=share)


def finish(ax: Axes, title: str, share: bool) -> None:
    """Title and axes of a panel."""
    ax.set_title(title)
    if style.empty(ax):
        return
    style.count_axis(ax, "number of edits in the model")
    if share:
        style.percent_axis(ax)
    else:
        ax.set_ylim(bottom=0)
