"""How many of the facts that an edit put in are lost again later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from edit_robust.figures import endings, style
from edit_robust.figures.frame import RunData, is_sequence, sequences, series
from edit_robust.figures.grouping import groups

NAME = "forgetting"
TITLE = "How many past edits are forgotten"
CAPTION = (
    "Share of the edits that worked at some check and do not work at this one (solid). The dashed line counts an edit "
    "as forgotten for good once it failed, even if it came back; the dotted thin line is the share that came back. "
    "Left: the model gives the new answer by itself. Right: it merely prefers the new answer to the old one."
)
PANELS = (("", "Gives the new answer itself (argmax)"), ("_es", "Prefers the new answer to the old (ES)"))
LINES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("forgotten", {"linewidth": 2.0}, "forgotten at this check"),
    ("forgotten_sticky", {"linewidth": 1.6, "linestyle": (0, (5, 2))}, "forgotten at this or any earlier check"),
    ("recovered", {"linewidth": 1.0, "linestyle": (0, (1, 1.4))}, "forgotten earlier, back at this check"),
)


def metric_names(suffix: str) -> list[str]:
    """The records' names of the three shares: forgotten_es, forgotten_es_sticky, recovered_es."""
    return [
        name.replace("forgotten", f"forgotten{suffix}").replace("recovered", f"recovered{suffix}") for name, *_ in LINES
    ]


def wants(run: RunData) -> bool:
    """Whether a sequence looked back at its past edits."""
    metrics = (*metric_names(""), *metric_names("_es"))
    return is_sequence(run) and len(series(run, scope="retention", probe="edit", metric=metrics)) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Forgotten, forgotten for good and recovered shares against the number of edits."""
    all_groups = groups(sequences(runs))
    figure, axes = style.panels(TITLE, 1, len(PANELS), width=4.7, height=3.1)
    for ax, (suffix, title) in zip(axes[0], PANELS, strict=True):
        for group in all_groups:
            for metric, (name, look, _) in zip(metric_names(suffix), LINES, strict=True):
                found = [series(run, scope="retention", probe="edit", metric=metric) for run in group.runs]
                curve, color = style.combine(found), style.color_of(group.number)
                style.line(ax, curve, color, True, name == "forgotten", **look)
                if name == "forgotten":
                    endings.mark(ax, group.runs, curve, color, percent=True, beside=endings.longest(runs))
        ax.set_title(title)
        if not style.empty(ax):
            style.percent_axis(ax)
            style.count_axis(ax, "number of edits in the model")
    axes[0][0].set_ylabel("of the edits that ever worked")
    style.legend(
        figure,
        [
            *(style.handle(group.legend, style.color_of(group.number)) for group in all_groups),
            *(style.handle(words, **look) for _, look, words in LINES),
            *style.band_handle(len(group.runs) for group in all_groups),
        ],
    )
    return figure
