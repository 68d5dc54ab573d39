"""The summary's numbers as rows and columns of text, for the terminal and for the page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The moments of a run: prefix of the summary's keys, and what to call it.
MOMENTS = (
    ("unedited_", "unedited"),
    ("", "right after its edit"),
    ("retention_", "kept by all past edits"),
    ("final_", "at the end"),
)
SCORES = (
    ("ES", "the edit took (ES)"),
    ("PS", "it holds for rewordings (PS)"),
    ("NS", "neighbouring facts kept (NS)"),
    ("S", "all three together (S)"),
)
ACCURACIES = (
    ("ES_acc", "the edit's own question"),
    ("PS_acc", "its rewordings"),
    ("NS_acc", "neighbouring questions"),
)


@dataclass(frozen=True)
class Grid:
    """Column titles, the rows of scores, and the rows of everything else; a cell is text or empty."""

    columns: tuple[str, ...]
    scores: tuple[tuple[str, tuple[str, ...]], ...]
    others: tuple[tuple[str, tuple[str, ...]], ...]


def number(summary: Mapping[str, Any], key: str) -> float | None:
    """A summary value as a float (infinite and NaN included), None when it is not there."""
    value = summary.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def finite(summary: Mapping[str, Any], key: str) -> float | None:
    """A summary value, None when it is missing, NaN or infinite."""
    value = number(summary, key)
    return value if value is not None and math.isfinite(value) else None


def score(summary: Mapping[str, Any], moment: str, name: str) -> float | None:
    """A score in percent at one moment; S is the harmonic mean of the three, computed where only these are known."""
    value = finite(summary, moment + name)
    if value is None and name == "S":
        parts = [finite(summary, moment + part) for part in ("ES", "PS", "NS")]
        known = [part for part in parts if part is not None]
        if len(known) == 3:
            return 0.0 if min(known) <= 0 else 3.0 / sum(1.0 / part for part in known)
    return value


def percent(value: float | None, digits: int = 1) -> str:
    """`94.0 %`, or nothing."""
    return "" if value is None else f"{value:.{digits}f} %"


def amount(value: float | None, digits: int = 1) -> str:
    """A positive number in three digits or so: 5.1, 17.3, 12,345, 4.2e-07, infinite; `digits` after the point."""
    if value is None:
        return ""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite"
    if abs(value) >= 100:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.1e}"
    return f"{value:.{digits}f}" if abs(value) >= 1 else f"{value:.3g}"


def chance(p: float | None) -> str:
    """`p = 0.03`, `p < 0.001`."""
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def span(seconds: float) -> str:
    """A duration: 12.3 s, 4 min 05 s, 2 h 13 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def uses_accuracy(summary: Mapping[str, Any]) -> bool:
    """Whether the run reports accuracies only (a task without a rival answer, such as zsRE)."""
    return not any(finite(summary, f"{moment}ES") is not None for moment, _ in MOMENTS[1:]) and any(
        finite(summary, f"{moment}ES_acc") is not None for moment, _ in MOMENTS[1:]
    )


def grid(summary: Mapping[str, Any], both: bool = False) -> Grid:
    """Scores by moment, only the moments and rows that exist. `both`: success rates and accuracies."""
    names = ACCURACIES if uses_accuracy(summary) else (*SCORES, *ACCURACIES) if both else SCORES
    moments = [
        (moment, title)
        for moment, title in MOMENTS
        if any(score(summary, moment, name) is not None for name, _ in names)
    ]
    if number(summary, "unedited_perplexity") is not None and (not moments or moments[0] != MOMENTS[0]):
        moments.insert(0, MOMENTS[0])
    if all(moment == MOMENTS[0] for moment in moments):
        moments.append(MOMENTS[-1])
    rows = []
    for name, words in names:
        cells = tuple(percent(score(summary, moment, name)) for moment, _ in moments)
        prefix = "right by itself: " if name.endswith("_acc") else ""
        if any(cells):
            rows.append((prefix + words, cells))
    return Grid(tuple(title for _, title in moments), tuple(rows), tuple(others(summary, moments)))


def others(summary: Mapping[str, Any], moments: list[tuple[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Forgetting, drift, perplexity and time; what has no moment of its own stands in the last column."""

    def row(words: str, last: str, first: str = "") -> tuple[str, tuple[str, ...]]:
        cells = [""] * len(moments)
        if first:
            cells[0] = first
        cells[-1] = last
        return words, tuple(cells)

    rows = []
    for key, words in (
        ("forgotten_pct", "edits forgotten"),
        ("forgotten_sticky_pct", "... at this or any earlier check"),
        ("recovered_pct", "... forgotten earlier, but back"),
    ):
        if (value := finite(summary, key)) is not None:
            rows.append(row(words, percent(value)))
    before, after = number(summary, "unedited_perplexity"), number(summary, "perplexity")
    if before is not None or after is not None:
        rows.append(row("perplexity on plain text", amount(after, 2), amount(before, 2)))
    if (drift := number(summary, "drift")) is not None:
        rows.append(row("distance of the weights ‖W - W₀‖", amount(drift, 2)))
    if refused := finite(summary, "n_refused"):
        rows.append(row("edits refused", f"{refused:.0f}"))
    for key, words in (("seconds_edit", "time for editing"), ("seconds_evaluate", "time for measuring")):
        if (seconds := finite(summary, key)) is not None:
            rows.append(row(words, span(seconds)))
    return rows
