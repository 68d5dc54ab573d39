"""The scaling paper's appendix (arXiv 2401.07453): each sample by itself. A sample is one order of the edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import shorten

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import endings, style
from edit_robust.figures.frame import (
    PROBES,
    RunData,
    is_sequence,
    rate_metric,
    rows,
    sequences,
    series,
    setting,
    trailing_mean,
)
from edit_robust.figures.grouping import Group, groups

NAME = "samples"
TITLE = "Every sample by itself"
CAPTION = (
    "One column an order of the edits. From top to bottom: the newest edit, averaged over the last 5 (thin) and the "
    "last 50 (thick), as efficacy, paraphrase and neighbourhood success; past edits forgotten; the other tasks, mean "
    "F1 of those that were asked; and the distance of the edited layers per weight. Means over orders hide that models "
    "break at different edits; here each break stands where it happened."
)
WINDOWS = ((5, 0.7, 0.5), (50, 2.0, 1.0))
#: Columns at most.
SAMPLES = 4


def wants(run: RunData) -> bool:
    """Whether the run piles up edits and measured each right after it was made."""
    return is_sequence(run) and len(series(run, scope="at-edit", probe="edit", metric=rate_metric([run]))) > 0


def enough(runs: Sequence[RunData]) -> bool:
    """Whether some setting was repeated with another order or seed."""
    return max((len(group.runs) for group in groups(sequences(runs))), default=0) > 1


def sample_of(run: RunData) -> str:
    """Which order and seed a run had: `order 3`, with the seed where it is not 0."""
    order, seed = setting(run.config, "task.order", 0), setting(run.config, "seed", 0)
    return f"order {order}" + (f", seed {seed}" if seed else "")


Draw = Callable[[Axes, RunData, Group], None]


def _newest(probe: str) -> Draw:
    def draw_newest(ax: Axes, run: RunData, group: Group) -> None:
        found = series(run, scope="at-edit", probe=probe, metric=rate_metric([run]))
        for window, width, opacity in WINDOWS:
            curve = style.combine([trailing_mean(found, window)])
            _line(ax, curve, group, True, linewidth=width, alpha=opacity)
        endings.mark(ax, [run], curve, style.color_of(group.number), percent=True)

    return draw_newest


def _forgotten(ax: Axes, run: RunData, group: Group) -> None:
    curve = style.combine([series(run, scope="retention", probe="edit", metric="forgotten")])
    _line(ax, curve, group, True)
    endings.mark(ax, [run], curve, style.color_of(group.number), percent=True)


def downstream(run: RunData) -> pd.Series:
    """Mean weighted F1 of generated answers over the tasks that were asked, against the number of edits."""
    found = rows(run, scope="model", metric="f1_generated")
    values = pd.to_numeric(found["value"], errors="coerce")
    return values.groupby(found["n_edits"]).mean().astype(float).dropna()


def _downstream(ax: Axes, run: RunData, group: Group) -> None:
    _line(ax, style.combine([downstream(run)]), group, True)


def distance(run: RunData) -> pd.Series:
    """||W - W0||_F over all edited layers together, per weight, against the number of edits."""
    found = rows(run, scope="model", metric="drift_per_element")
    values = pd.to_numeric(found["value"], errors="coerce").astype(float)
    n = pd.to_numeric(found["n"], errors="coerce").astype(float)
    square = ((values * n) ** 2).groupby(found["n_edits"]).sum(min_count=1)
    per = square.pow(0.5) / n.groupby(found["n_edits"]).sum()
    return per[per > 0]


def _distance(ax: Axes, run: RunData, group: Group) -> None:
    _line(ax, style.combine([distance(run)]), group, False)


def _line(ax: Axes, curve: style.Curve, group: Group, percent: bool, **look: object) -> None:
    dash = {"linestyle": style.dash_of(group.number), **look}
    style.line(ax, curve, style.color_of(group.number), percent, False, **dash)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A column a sample, a row a quantity; rows that no run measured are left out."""
    runs = sequences(runs)
    all_groups = groups(runs)
    samples = list(dict.fromkeys(sample_of(run) for group in all_groups for run in group.runs))[:SAMPLES]
    wanted: list[tuple[str, Draw, bool]] = [
        *((f"{words} ({short})", _newest(probe), True) for probe, short, words in PROBES),
        ("Past edits forgotten", _forgotten, True),
        ("Other tasks (F1)", _downstream, True),
        ("‖W - W₀‖ per weight (log axis)", _distance, False),
    ]
    kept = [one for one in wanted if one[1] is not _downstream or any(len(downstream(run)) for run in runs)]
    figure, axes = style.panels(TITLE, len(kept), max(len(samples), 1), width=3.5, height=2.0)
    for number, (line, (words, put, percent)) in enumerate(zip(axes, kept, strict=True), 1):
        for ax, sample in zip(line, samples or [""], strict=True):
            for group in all_groups:
                for run in (one for one in group.runs if sample_of(one) == sample):
                    put(ax, run, group)
            ax.set_title(f"{sample}: {words}" if sample and ax is line[0] else sample or words)
            finish(ax, percent, number == len(kept))
        same_height(line, percent)
    style.legend(figure, legend_of(all_groups))
    return figure


def finish(ax: Axes, percent: bool, lowest: bool) -> None:
    """Axes of a panel; one without data says so."""
    if style.empty(ax):
        return
    if percent:
        style.percent_axis(ax)
    else:
        style.log_axis(ax)
    style.count_axis(ax, "number of edits in the model" if lowest else "")


def same_height(line: Sequence[Axes], percent: bool) -> None:
    """Panels beside each other get one scale."""
    drawn = [ax for ax in line if ax.lines]
    if percent or not drawn:
        return
    low, high = min(ax.get_ylim()[0] for ax in drawn), max(ax.get_ylim()[1] for ax in drawn)
    for ax in drawn:
        ax.set_ylim(low, high)


def legend_of(all_groups: Sequence[Group]) -> list[object]:
    """Who is which line, and what thin and thick mean."""
    if not all_groups:
        return []
    names = [
        style.handle(shorten(g.label, 60), style.color_of(g.number), linestyle=style.dash_of(g.number))
        for g in all_groups
    ]
    thin, thick = (style.handle(f"mean of the last {n} edits", linewidth=width) for n, width, _ in WINDOWS)
    return [*names, thin, thick]
