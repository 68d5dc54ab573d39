"""All editors side by side: one line an editor, one column a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.endings import ending
from edit_robust.figures.frame import RunData, is_sequence, sequences
from edit_robust.figures.grouping import Group, groups

NAME = "editors"
TITLE = "The editors side by side"
CAPTION = (
    "One line an editor, the best at the end on top (by S after the last edit: the harmonic mean of edits that hold, "
    "rewordings and neighbours). Dots are means over orders, whiskers go from the lowest to the highest run; the grey "
    "line is the unedited model. An arrow stands for a number that is infinite, and words at the right say where a "
    "walk broke, or why it has no good end."
)


@dataclass(frozen=True)
class Number:
    """key: of the summary; before: key of the unedited model's.   kind: percent, log or linear axis."""

    key: str
    title: str
    kind: str = "percent"
    before: str = ""


NUMBERS = (
    Number("S", "right after its\nedit: all three (S)"),
    Number("final_S", "at the end:\nall three (S)"),
    Number("final_ES", "at the end:\nedits that hold (ES)"),
    Number("final_PS", "at the end:\nrewordings (PS)"),
    Number("final_NS", "at the end:\nneighbours (NS)", before="unedited_NS"),
    Number("forgotten_pct", "edits\nforgotten"),
    Number("perplexity", "perplexity on\nplain text", "log", "unedited_perplexity"),
    Number("drift", "distance\n‖W - W₀‖", "log"),
    Number("seconds_an_edit", "seconds\nan edit", "log"),
)


def value_of(run: RunData, key: str) -> float:
    """A number of the summary; NaN where it is missing, infinite where it was measured and is not finite."""
    if key == "seconds_an_edit":
        seconds: Any
        n: Any
        seconds, n = run.summary.get("seconds_edit"), run.summary.get("n_edits")
        return float(seconds) / float(n) if _is_number(seconds) and _is_number(n) and float(n) > 0 else float("nan")
    value: Any = run.summary.get(key)
    if value is None and key in run.summary and key == "perplexity":
        return float("inf")
    return float(value) if _is_number(value) else float("nan")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def wants(run: RunData) -> bool:
    """Whether a sequence of edits has come to its end and was asked then."""
    return is_sequence(run) and np.isfinite(value_of(run, "final_ES")) and bool(run.config.get("editor"))


def enough(runs: Sequence[RunData]) -> bool:
    """Whether there are at least two editors."""
    return len({group.editor for group in groups(sequences(runs))}) > 1


def ordered(runs: Sequence[RunData]) -> list[Group]:
    """The settings, best at the end first; those without a number there last."""

    def rank(group: Group) -> float:
        values = [value for run in group.runs if np.isfinite(value := value_of(run, "final_S"))]
        return -float(np.mean(values)) if values else 1.0

    return sorted(groups(sequences(runs)), key=rank)


def table(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row a setting, best first: `setting`, `runs`, the mean of every number, `inflection_edit`, and `end`."""
    lines = []
    for group in ordered(runs):
        line: dict[str, object] = {"setting": group.label, "runs": len(group.runs)}
        for number in NUMBERS:
            values = np.array([value_of(run, number.key) for run in group.runs])
            known = values[~np.isnan(values)]
            line[number.key] = float(known.mean()) if len(known) else float("nan")
        broke = [run.summary.get("inflection_edit") for run in group.runs]
        found = [float(one) for one in broke if one is not None]
        line["inflection_edit"] = float(np.median(found)) if found else float("nan")
        line["end"] = words_of(group)
        lines.append(line)
    return pd.DataFrame(lines)


def words_of(group: Group) -> str:
    """Why the walks of a group have no good end, or where they broke."""
    ends = [end for run in group.runs if (end := ending(run)) is not None]
    if ends:
        text = f"{ends[0].why.replace('here', f'edit {ends[0].at:.0f}')}"
        return text + (f" ({len(ends)} of {len(group.runs)} runs)" if len(group.runs) > 1 else "")
    broke = sorted(float(one) for run in group.runs if (one := run.summary.get("inflection_edit")) is not None)
    if not broke:
        return ""
    return f"broke at edit {np.median(broke):.0f}" + (
        f" ({len(broke)} of {len(group.runs)} runs)" if len(group.runs) > 1 else ""
    )


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a number, editors from top to bottom."""
    lines = ordered(runs)
    shown = [n for n in NUMBERS if any(not np.isnan(value_of(r, n.key)) for g in lines for r in g.runs)]
    shown = shown or [NUMBERS[0]]
    figure, axes = style.panels(TITLE, 1, len(shown), width=1.55, height=max(1.4, 0.34 * len(lines) + 0.9))
    figure.set_figwidth(max(figure.get_figwidth() + 2.4, 6.0))
    for ax, number in zip(axes[0], shown, strict=True):
        draw_number(ax, number, lines)
        first = ax is axes[0][0]
        ax.set_yticks(range(len(lines)), [shorten(g.label, 34, placeholder=" ...") for g in lines] if first else [])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(max(len(lines), 1) - 0.5, -0.5)
        ax.set_title(number.title, fontsize=8.5)
        ax.tick_params(axis="x", labelsize=7.5)
    last = axes[0][-1]
    for place, group in enumerate(lines):
        if text := words_of(group):
            where = (1.04, place)
            last.annotate(text, where, xycoords=("axes fraction", "data"), fontsize=8, va="center", color=style.GREY)
    several = any(len(group.runs) > 1 for group in lines)
    entries = [style.handle("unedited model", linewidth=1.2)] if any(n.before for n in shown) else []
    whiskers = [style.handle("lowest to highest run", style.INK, linewidth=1.0)] if several else []
    style.legend(figure, [*entries, *whiskers])
    return figure


def draw_number(ax: Axes, number: Number, lines: Sequence[Group]) -> None:
    """One column: a dot a group, whiskers over its runs, arrows for what is infinite."""
    spread = {place: np.array([value_of(run, number.key) for run in g.runs]) for place, g in enumerate(lines)}
    known = {place: v[np.isfinite(v)] for place, v in spread.items()}
    for place in range(len(lines)):
        color = style.color_of(0)
        if len(some := known[place]):
            mean = float(np.exp(np.log(np.maximum(some, 1e-300)).mean()) if number.kind == "log" else some.mean())
            ax.plot([some.min(), some.max()], [place, place], color=style.INK, linewidth=1.0)
            ax.plot([mean], [place], marker="o", markersize=6, color=color, linestyle="none")
        if np.isinf(spread[place]).any():
            where = ax.get_yaxis_transform()
            ax.plot([0.97], [place], marker=">", markersize=6, color=color, transform=where, linestyle="none")
    befores = [v for g in lines for run in g.runs if np.isfinite(v := value_of(run, number.before))]
    if befores:
        ax.axvline(float(np.mean(befores)), color=style.GREY, linewidth=1.2, zorder=1)
    if number.kind == "percent":
        ax.set_xlim(-4, 104)
        ax.set_xticks([0, 50, 100])
        ax.xaxis.set_major_formatter(style.FuncFormatter(lambda value, _: f"{value:g} %"))
    elif everything := [*(float(v) for some in known.values() for v in some if v > 0), *befores]:
        _log(ax, everything)


def _log(ax: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    style.log_x(ax)
    stretch = max(1.7, (high / low) ** 0.1)
    ax.set_xlim(low / stretch, high * stretch)
    ax.xaxis.set_major_locator(style.LogLocator(subs=(1.0,) if high / low > 20 else (1.0, 3.0), numticks=4))
    ax.tick_params(axis="x", which="minor", length=0)
