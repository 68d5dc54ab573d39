"""All editors of one task side by side: a panel a number, a line an editor, its interval, and the ranks it may have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.core.errors import UserError
from edit_robust.figures import style
from edit_robust.figures.board import Board, Metric, board, together
from edit_robust.figures.frame import RunData, setting

NAME = "leaderboard"
TITLE = "Editors side by side"
CAPTION = (
    "A dot is an editor's mean, its line the 95 % t interval over what is independent: orders of the edits, pairs, or "
    "requests. Filled: it differs from the reference (diamond) by more than noise, compared cluster by cluster; "
    "hollow: it does not. Intervals may overlap where paired differences are clear. Right of each panel the ranks that "
    "the paired differences leave possible: editors that do not differ share them. ↑: more is better; ↓: less is."
)
#: Numbers that get a panel, at most; and editors from which on a comparison is worth a figure of its own.
PANELS, EDITORS = 6, 3


def wants(run: RunData) -> bool:
    """Whether the run is complete, with numbers that a table of many runs shows."""
    return bool(run.summary) and any(c.short and c.value is not None for c in run.columns or ())


def enough(runs: Sequence[RunData]) -> bool:
    """Whether some of the runs compare three editors or more on one task."""
    return bool(_largest(runs))


def _largest(runs: Sequence[RunData]) -> list[RunData]:
    """The runs that were asked the same and hold the most editors."""
    best: list[RunData] = []
    for some in together(runs):
        editors = {str(setting(run.config, "editor.name")) for run in some}
        known = {str(setting(run.config, "editor.name")) for run in best}
        if len(editors) >= max(EDITORS, len(known) + 1) and _comparable(some):
            best = some
    return best


def _comparable(runs: Sequence[RunData]) -> bool:
    try:
        return len(board(runs).metrics) > 0
    except UserError:
        return False


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """The comparison of the runs that hold the most editors."""
    some = _largest(runs)
    if not some:
        figure, axes = style.panels(TITLE, 1, 1)
        style.empty(axes[0][0])
        return figure
    return draw_board(board(some))


@style.styled
def draw_board(found: Board) -> Figure:
    """A comparison: editors from the best down, the metrics beside each other."""
    metrics = _panels(found)
    height = 0.26 * len(found.entries) + 0.9
    title = f"{TITLE}: {found.title}"
    figure, axes = style.panels(title, 1, len(metrics), width=2.1 if len(metrics) > 2 else 3.4, height=height)
    labels = [one.label for one in found.entries]
    for number, (one, ax) in enumerate(zip(metrics, axes[0], strict=True)):
        _panel(ax, found, one)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.set_yticks(range(len(labels)), labels if number == 0 else [""] * len(labels))
        ax.grid(False, axis="y")
        ax.set_title(one.short + {1: " ↑", -1: " ↓", 0: ""}[one.better])
        ax.set_xlabel(_axis(one))
        ax.tick_params(axis="y", length=0)
    figure.set_figwidth(figure.get_figwidth() + 0.075 * max(map(len, labels)))
    dots = {"linestyle": "none", "markersize": 6}
    entries = [
        style.handle("differs from the reference", style.PALETTE[0], marker="o", **dots),
        style.handle("does not", style.PALETTE[0], marker="o", markerfacecolor="white", **dots),
        style.handle(f"reference: {found.reference}", style.INK, marker="D", **dots),
        style.handle(f"95 % interval over {found.n} {found.units}", style.PALETTE[0], linewidth=1.6),
    ]
    style.legend(figure, entries)
    return figure


def _panels(found: Board) -> list[Metric]:
    """What judges edits first, up to the number of panels."""
    ranked = [m for m in found.metrics if m.better]
    return (ranked or list(found.metrics))[:PANELS]


def _scale(one: Metric) -> float:
    return 100.0 if one.unit == "share" else 1.0


def _axis(one: Metric) -> str:
    return {"percent": "%", "share": "%", "difference": "share", "seconds": "s"}.get(one.unit, "")


def _panel(ax: Axes, found: Board, one: Metric) -> None:
    """The dots, their intervals, and the ranks at the right edge."""
    scale, log = _scale(one), one.ratio
    means = np.array([entry.marks[one.key].value[0] for entry in found.entries], dtype=float) * scale
    known = means[np.isfinite(means)]
    if log and len(known) and known.min() > 0 and known.max() / known.min() > 20:
        style.log_x(ax)
    for y, entry in enumerate(found.entries):
        mark = entry.marks[one.key]
        mean, low, high = (scale * x for x in one.within(mark.value))
        if not np.isfinite(mean):
            ax.text(0.02, y, "no number", transform=ax.get_yaxis_transform(), va="center", color=style.GREY, fontsize=8)
            continue
        reference = entry.label == found.reference
        color = style.INK if reference else style.PALETTE[0]
        if np.isfinite(mark.value[1]):
            ax.plot([low, high], [y, y], color=color, linewidth=1.6, zorder=2)
        face = color if reference or mark.differs else "white"
        ax.plot([mean], [y], "D" if reference else "o", color=color, markerfacecolor=face, markersize=6, zorder=3)
        if mark.rank is not None:
            ax.annotate(
                rank_text(mark.rank), (1.0, y), xycoords=ax.get_yaxis_transform(), xytext=(3, 0), fontsize=7.5,
                textcoords="offset points", va="center", color=style.GREY, annotation_clip=False,
            )  # fmt: skip
    _limits(ax, found, one, known)


def _limits(ax: Axes, found: Board, one: Metric, known: np.ndarray) -> None:
    """Intervals wider than what can be (of few clusters) are cut at 0 and 100 %."""
    if one.unit in ("percent", "share") and len(known):
        low, high = ax.get_xlim()
        ax.set_xlim(max(low, -4), min(high, 104))


def rank_text(rank: tuple[int, int]) -> str:
    """`3`, or `1-4` where it is shared."""
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"
