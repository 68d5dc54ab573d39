"""The original task under every single corruption: along the edit, and by severity."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate.statistics.penalties import FAMILIES, corrupted
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import gather, numbered, pairs_and_seeds, scores, whole, words

NAME = "corruptions"
TITLE = "The original task under every corruption"
CAPTION = (
    "Accuracy on the original task, means over pairs and layers, a column a family of corruptions, a line a "
    "corruption. Upper row of a method, where parts of the edit were measured: along the edit at one severity (alpha "
    "0 is the unedited model). Lower row: by severity, the whole edit solid and the unedited model dotted in the same "
    "colour; the gap between the two is eq. 1. (Second figure 7 of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether the run asked about corrupted images of the original task."""
    return len(corrupted(scores(run), "original")) > 0


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """The corruptions that were measured, by family and in the benchmark's order; unknown ones come last."""
    found = {family: [name for name in members if name in names] for family, members in FAMILIES.items()}
    known = {name for members in FAMILIES.values() for name in members}
    found["other"] = sorted(set(names) - known)
    return {family: members for family, members in found.items() if members}


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Two rows a model and method (along alpha, by severity), a column a family."""
    table = corrupted(gather(runs, shifts=True), "original")
    several = table.model.nunique() > 1
    names = table.method if not several else table.model.astype(str) + ": " + table.method.astype(str)
    table = table.assign(panel=names)
    columns = families(list(dict.fromkeys(table["shift"])))
    rows = [
        (panel, along)
        for panel in numbered(table.panel)
        for along in (True, False)
        if not along or table[table.panel == panel].groupby("run").alpha.nunique().max() > 1
    ]
    size = (max(len(rows), 1), max(len(columns), 1))
    figure, axes = style.panels(TITLE, *size, width=6.4 if size[1] == 1 else 3.3, height=2.3 + 0.9 / size[0])
    if not rows:
        style.empty(axes[0][0])
        return figure
    middle = sorted(table.severity.unique(), key=lambda one: (abs(one - 3), one))[0]
    for place, (panel, along) in enumerate(rows):
        found = table[table.panel == panel]
        for ax, (family, members) in zip(axes[place], columns.items(), strict=True):
            for number, name in enumerate(members):
                one = found[found["shift"] == name]
                draw_one(ax, one, style.color_of(number), words(name), middle if along else None)
            style.empty(ax)
            style.percent_axis(ax)
            if place == 0:
                ax.set_title(family, fontsize=10)
            if along:
                ax.set_xlabel(f"alpha (severity {middle})", fontsize=9)
            else:
                ax.set_xticks(sorted(found.severity.unique()))
                ax.set_xlabel("severity (dotted: unedited)", fontsize=9)
            if place == len(rows) - 1:  # below the column: curves may run anywhere
                ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.24), fontsize=8, handlelength=1.4)
        n = int(found.n.max())
        axes[place][0].set_ylabel(f"{panel}\n{pairs_and_seeds(found)}, n = {n:,}", fontsize=9)
    return figure


def draw_one(ax: Axes, rows: pd.DataFrame, color: str, text: str, severity: int | None) -> None:
    """One corruption along alpha at a severity, or by severity for the whole edit and the unedited model."""
    if severity is not None:
        some = rows[rows.severity == severity]
        some = some[some.groupby("run").alpha.transform("nunique") > 1]
        after = some.groupby("alpha").accuracy.mean()
        if len(after) and after.index[0] > 0:
            after = pd.concat([pd.Series([some.unedited.mean()], index=[0.0]), after])
        ax.plot(after.index, 100 * after, color=color, linewidth=1.6, marker="o", markersize=3, label=text)
        return
    some = whole(rows)
    after, before = (some.groupby("severity")[name].mean() for name in ("accuracy", "unedited"))
    ax.plot(after.index, 100 * after, color=color, linewidth=1.6, marker="o", markersize=3.5, label=text)
    ax.plot(before.index, 100 * before.astype(float), color=color, linewidth=1.2, linestyle=":")
