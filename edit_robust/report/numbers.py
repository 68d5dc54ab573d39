"""Numbers as text, for the terminal and for the page alike: by their unit, as a column says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edit_robust.core.data import Column
from edit_robust.evaluate.columns import finite

__all__ = ["amount", "cell", "chance", "difference", "finite", "gigabytes", "number", "percent", "share", "span"]


def number(summary: Mapping[str, Any], key: str) -> float | None:
    """A summary value as a float (infinite and NaN included), None when it is not there."""
    value = summary.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def percent(value: float | None, digits: int = 1) -> str:
    """A rate of 0 to 100: `94.0 %`, or nothing."""
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


def gigabytes(size: float) -> str:
    """Bytes as 24.2 GB, 302 MB, 1.2 MB, 12 KB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size:.0f} bytes"


def share(value: float) -> str:
    """A share of 0 to 1 in percent: 85 %, 96.1 %, and neither 100 % nor 0 % unless it is all or none."""
    percentage = 100 * value
    if percentage >= 99.95 and value < 1:
        return "99.9 %"
    if 0 < percentage < 0.05:
        return "0.1 %"
    return f"{percentage:.1f}".removesuffix(".0") + " %"


def difference(value: float | None) -> str:
    """A difference of shares as the vision paper writes penalties, a signed fraction: -0.012."""
    return "" if value is None else f"{value:+.3f}"


def cell(column: Column, brief: bool = False) -> str:
    """A column's value as its unit wants it, with interval and note; `brief`: without them, and in fewer digits."""
    value = column.value
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    write: dict[str, Callable[[float], str]] = {
        "percent": percent,
        "share": share,
        "difference": difference,
        "number": lambda x: f"{x:,}" if isinstance(x, int) else amount(x, 1 if brief else 2),
        "count": lambda x: f"{x:,.0f}",
        "seconds": span,
        "p": chance,
    }
    text = write.get(column.unit, str)(value)
    if brief:
        return text
    if column.low is not None and column.high is not None:
        text += f" [{difference(column.low)}, {difference(column.high)}]"
    return f"{text} {column.note}".rstrip()
