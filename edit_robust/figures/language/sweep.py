"""Many runs side by side: the scores against what was swept, or as bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData, setting
from edit_robust.figures.grouping import WORDS, Group, flatten, groups, identity, natural

NAME = "sweep"
TITLE = "The runs side by side"
CAPTION = (
    "S is the harmonic mean of the other three, so one that breaks down pulls it down. ES: the edit took. PS: it holds "
    "for rewordings. NS: neighbouring facts kept. Where a setting was repeated with other orders or seeds, the bars "
    "and dots are means, and the whiskers and bands go from the lowest to the highest run."
)
SCORES = (
    ("S", "All three together (S)"),
    ("ES", "The edit took (ES)"),
    ("PS", "It holds for rewordings (PS)"),
    ("NS", "Neighbouring facts kept (NS)"),
)
FIRST = ("layer.index", "trajectory.batch_size", "task.n_requests")


def score(run: RunData, name: str) -> float:
    """A summary score in percent: right after the edit, else at the end; NaN without either."""
    for key in (name, f"final_{name}"):
        value = run.summary.get(key)
        if isinstance(value, int | float) and np.isfinite(value):
            return float(value)
    return float("nan")


def scores(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """The scores that these runs have; accuracies for tasks without success rates."""
    have = [entry for entry in SCORES if any(np.isfinite(score(run, entry[0])) for run in runs)]
    if have:
        return have
    swapped = [(f"{name}_acc", title.replace(f"({name})", "(accuracy)")) for name, title in SCORES]
    return [entry for entry in swapped if any(np.isfinite(score(run, entry[0])) for run in runs)]


def wants(run: RunData) -> bool:
    """Whether the run has scores to be compared by."""
    return bool(scores([run]))


def enough(runs: Sequence[RunData]) -> bool:
    """Whether there are at least two settings to compare."""
    return len(groups(runs)) > 1


def swept(runs: Sequence[RunData]) -> str | None:
    """The key to draw along: the layer if it varies, else a number that alone tells some runs apart."""
    flat = [flatten(run.config) for run in runs]
    own = [identity(run.config) for run in runs]
    settings = len({json.dumps(one, sort_keys=True, default=str) for one in own})
    numbers = {k for one in own for k, v in one.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for key in dict.fromkeys([*FIRST, *sorted(numbers)]):
        if len({str(one.get(key)) for one in flat if key in one}) < 2:
            continue
        rest = {json.dumps(identity(run.config, (key,)), sort_keys=True, default=str) for run in runs}
        if key == FIRST[0] or (key in numbers and len(rest) < settings):
            return key
    return None


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """S, ES, PS and NS along the swept setting with a line for each of the rest, or as grouped bars."""
    runs = [run for run in runs if run.summary]
    key = swept(runs)
    shown = scores(runs) or list(SCORES)
    return along(runs, key, shown) if key else bars(runs, shown)


def along(runs: Sequence[RunData], key: str, shown: Sequence[tuple[str, str]]) -> Figure:
    """Lines against one setting; numbers to scale, anything else at even steps."""
    apart = (key.partition(".")[0],) if key == FIRST[0] else (key,)
    all_groups = groups(runs, without=apart)
    values = sorted({str(v): v for run in runs if (v := setting(run.config, key)) is not None}.values(), key=natural)
    to_scale = all(isinstance(value, int | float) for value in values)
    place = {str(value): float(value) if to_scale else float(i) for i, value in enumerate(values)}
    ncols = 2 if len(shown) != 3 else 3
    figure, axes = style.panels(TITLE, -(-len(shown) // ncols), ncols, width=4.7 if ncols == 2 else 3.7)
    for ax, (name, title) in zip(axes.flat, shown, strict=False):
        for group in all_groups:
            draw_line(ax, group, key, name, place)
        ax.set_title(title)
        if style.empty(ax):
            continue
        befores = [mean_of(group.runs, f"unedited_{name}") for group in all_groups]
        style.levels(ax, [v / 100 for v in befores], [style.color_of(group.number) for group in all_groups])
        style.percent_axis(ax)
        ax.set_xlabel(WORDS.get(key, key.rpartition(".")[2].replace("_", " ")))
        if not to_scale or len(values) <= 12:
            texts = [style.plain(v) if isinstance(v, int | float) else str(v) for v in values]
            ax.set_xticks(list(place.values()), texts)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    dotted = [style.handle("unedited model", linestyle=":", linewidth=1.2)] if has_unedited(runs, shown) else []
    lines = [style.handle(g.label, style.color_of(g.number), linestyle=style.dash_of(g.number)) for g in all_groups]
    repeated = max((len(group.runs) for group in all_groups), default=0) > len(values)
    band = [style.Patch(color=style.GREY, alpha=0.25, linewidth=0, label="lowest to highest run")] if repeated else []
    style.legend(figure, [*lines, *dotted, *band])
    return figure


def draw_line(ax: Axes, group: Group, key: str, name: str, place: dict[str, float]) -> None:
    """Means of one group along x, with a band over repeats."""
    found: dict[float, list[float]] = {}
    for run in group.runs:
        if np.isfinite(value := score(run, name)) and (x := setting(run.config, key)) is not None:
            found.setdefault(place[str(x)], []).append(value)
    if not found:
        return
    x = np.array(sorted(found))
    low, mean, high = (np.array([pick(found[one]) for one in x]) for pick in (min, np.mean, max))
    color, dash = style.color_of(group.number), style.dash_of(group.number)
    ax.plot(x, mean, color=color, linestyle=dash, linewidth=1.8, marker="o", markersize=4.5)
    if (high > low).any():
        ax.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)


def bars(runs: Sequence[RunData], shown: Sequence[tuple[str, str]]) -> Figure:
    """Grouped bars: a cluster a score, a bar a setting; short dotted lines show the unedited model."""
    all_groups = groups(runs)
    width = max(7.0, 1.2 + len(shown) * (0.55 + 0.3 * len(all_groups)))
    figure, axes = style.panels(TITLE, 1, 1, width=min(width, 13.0), height=3.3)
    ax = axes[0][0]
    step = 0.82 / max(len(all_groups), 1)
    for group in all_groups:
        for at, (name, _) in enumerate(shown):
            values = [value for run in group.runs if np.isfinite(value := score(run, name))]
            if not values:
                continue
            x, mean = at - 0.41 + step * (group.number + 0.5), float(np.mean(values))
            ax.bar(x, mean, step * 0.88, color=style.color_of(group.number), hatch=hatch_of(group), edgecolor="white")
            if max(values) > min(values):
                whisker = [[mean - min(values)], [max(values) - mean]]
                ax.errorbar(x, mean, whisker, fmt="none", ecolor=style.INK, elinewidth=1.1, capsize=2.5)
            if np.isfinite(before := mean_of(group.runs, f"unedited_{name}")):
                ax.hlines(before, x - step * 0.44, x + step * 0.44, color=style.INK, linestyle=":", linewidth=1.4)
            if len(all_groups) <= 4:
                look = {"ha": "center", "fontsize": 8.5, "fontweight": "bold"}
                inside = mean >= 12
                at_y, color = (2.0, "white") if inside else (max(values) + 2.0, style.INK)
                ax.text(x, at_y, f"{mean:.0f}", color=color, **look)
    if not style.empty(ax):
        style.percent_axis(ax)
        ax.set_ylim(0, 104)
        ax.grid(False, axis="x")
        ax.set_xticks(range(len(shown)), ["\n".join(wrap(title, 16)) for _, title in shown])
    dotted = [style.handle("unedited model", style.INK, linestyle=":", linewidth=1.4)]
    entries: list[Any] = [
        style.Patch(facecolor=style.color_of(g.number), hatch=hatch_of(g), edgecolor="white", label=g.legend)
        for g in all_groups
    ]
    style.legend(figure, [*entries, *(dotted if has_unedited(runs, shown) else [])])
    return figure


def hatch_of(group: Group) -> str:
    """Bars get a hatch once the colours come round again."""
    return ("", "///", "...", "xxx")[(group.number // len(style.PALETTE)) % 4]


def mean_of(runs: Sequence[RunData], key: str) -> float:
    """The mean of a summary value over runs, NaN when no run has it."""
    values = [run.summary[key] for run in runs if isinstance(run.summary.get(key), int | float)]
    return float(np.mean(values)) if values else float("nan")


def has_unedited(runs: Sequence[RunData], shown: Sequence[tuple[str, str]]) -> bool:
    """Whether any run knows the unedited model's scores."""
    return any(np.isfinite(mean_of(runs, f"unedited_{name}")) for name, _ in shown)
