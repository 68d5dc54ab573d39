"""The numbers of a comparison as text: means with intervals and ranks, differences, costs."""

from __future__ import annotations

import math

from edit_robust.evaluate.statistics.ranking import Interval
from edit_robust.figures.board import Board, Cost, Mark, Metric
from edit_robust.figures.leaderboard import rank_text
from edit_robust.report.numbers import amount

NOTE = (
    "Numbers are means over {n} {units}, in brackets their 95 % t intervals. Ranks are what the paired differences "
    "leave possible: editors whose difference may be noise share them (differences are not "
    "corrected for how many there are). "
    "↑: more is better, ↓: less is."
)


def notes(found: Board) -> list[str]:
    """How to read it."""
    ratio = [m.short for m in found.metrics if m.ratio]
    more = [f"Differences of {', '.join(ratio)} are ratios."] if ratio else []
    if any(mark.value[1] == mark.value[2] for entry in found.entries for mark in entry.marks.values()):
        more.append("Where all of them agree an interval has no width: that is no proof.")
    return [" ".join([NOTE.format(n=found.n, units=found.units), *more, *found.notes])]


def heading(one: Metric) -> str:
    """Its short name, with its unit and which way is better."""
    unit = " %" if one.unit in ("percent", "share") else ""
    return f"{one.short}{unit}" + {1: " ↑", -1: " ↓", 0: ""}[one.better]


def number(value: float, one: Metric) -> str:
    """A value without its unit, which the heading has."""
    if not math.isfinite(value):
        return "none"
    if one.unit in ("percent", "share"):
        return f"{100 * value if one.unit == 'share' else value:.1f}"
    return f"{value:+.3f}" if one.unit == "difference" else amount(value)


def full(mark: Mark, one: Metric) -> str:
    """`94.0 [91.2, 96.8] (1-3)`."""
    mean, low, high = one.within(mark.value)
    text = number(mean, one)
    if math.isfinite(mark.value[1]):
        text += f" [{number(low, one)}, {number(high, one)}]"
    return text + (f" ({rank_text(mark.rank)})" if mark.rank else "")


def brief(mark: Mark, one: Metric) -> str:
    """`94.0 (1-3)`."""
    return number(mark.value[0], one) + (f" ({rank_text(mark.rank)})" if mark.rank else "")


def difference(mark: Mark, one: Metric) -> str:
    """`-3.1 [-5.0, -1.2]`; of a ratio `x1.4 [1.1, 1.8]`."""

    def text(value: float) -> str:
        if one.ratio:
            return f"{math.exp(min(value, 700.0)):.3g}"
        if one.unit in ("percent", "share"):
            return f"{100 * value if one.unit == 'share' else value:+.1f}"
        return f"{value:+.3f}" if one.unit == "difference" else f"{value:+.3g}"

    against: Interval = mark.against
    if not math.isfinite(against[0]):
        return ""
    start = f"×{text(against[0])}" if one.ratio else text(against[0])
    return start + (f" [{text(against[1])}, {text(against[2])}]" if math.isfinite(against[1]) else "")


def cost_headings(found: Board) -> list[str]:
    """The costs that some entry knows."""
    known = [cost_cells(entry.cost) for entry in found.entries]
    return [h for h in known[0] if any(cost[h] for cost in known)]


def cost_cells(cost: Cost) -> dict[str, str]:
    """What an edit cost, by heading."""

    def text(value: float | None, digits: str = ".3g") -> str:
        return "" if value is None else f"{value:{digits}}"

    return {
        "s an edit": text(cost.seconds),
        "processor s": text(cost.processor),
        "s to prepare": text(cost.prepare),
        "peak MiB": text(cost.memory, ",.0f"),
    }
