"""Where a curve stops falling apart slowly and breaks: the inflection of arXiv 2401.07453, section 4, found by rule.

A curve tells at each check how much is lost. Its abrupt phase is the earliest stretch of checks, as short as possible,
in which it rises by what matters, much faster than in the rest of the walk, beyond the curve's own noise, and for good.
A curve that falls apart evenly, however far, has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from jaxtyping import Float

#: The abrupt phase is at least so many times as steep as the rest of the curve. Of its steps the upper quartile counts:
#: a plateau after the break shall not make the slow phase before it look steep.
STEEPER, QUARTILE = 5.0, 0.75
#: ... rises by at least so many times the spread of the other steps (MAD, scaled to a standard deviation),
NOISE = 5.0
#: ... and, of shares, by so many standard errors of a share of so few.
ERRORS = 3.0
#: ... and is no longer than this part of the walk (one step between checks at least).
LONGEST = 0.1
#: Of its rise, at least this part is still there in the middle of all later checks.
STAYS = 0.5


@dataclass(frozen=True)
class Inflection:
    """The abrupt phase: after `after` edits and until `until`, both checks, a curve rose from `low` to `high`."""

    after: float
    until: float
    low: float
    high: float


def inflection(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    matters: Callable[[float], float],
    of: Float[np.ndarray, " n"] | None = None,
    widest: int = 1,
) -> Inflection | None:
    """The abrupt phase of a curve, None where it has none.

    x: number of edits in the model at each check, rising.   y: how much is lost, larger is worse.
    matters: how much a curve must rise from a level to matter.   of: of how many things y is a share; None: of none.
    widest: longest stretch to look at, in steps between checks, whatever `LONGEST` allows.
    Checks whose y is NaN are left out. A walk of fewer than three checks has no rest to compare with: None.
    """
    kept = ~np.isnan(y)
    x, y = x[kept], y[kept]
    n = None if of is None else of[kept]
    steps = len(x) - 1
    if steps < 2:
        return None
    for width in range(1, max(widest, math.floor(LONGEST * steps), 1) + 1):
        for i in range(steps - width + 1):
            if width < steps and _abrupt(x, y, i, i + width, matters, n):
                a, b = _narrowed(x, y, i, i + width)
                return Inflection(float(x[a]), float(x[b]), float(y[i]), float(y[i + width]))
    return None


def _abrupt(
    x: np.ndarray, y: np.ndarray, i: int, j: int, matters: Callable[[float], float], n: np.ndarray | None
) -> bool:
    """Whether the curve rises abruptly from check i to check j."""
    rise = float(y[j] - y[i])
    if not rise >= matters(float(y[i])):
        return False
    dx, dy = np.diff(x), np.diff(y)
    rest = np.r_[0:i, j : len(dx)]
    slope = max(float(np.quantile(dy[rest] / dx[rest], QUARTILE)), 0.0)
    expected = slope * float(x[j] - x[i])
    spread = 1.4826 * float(np.median(np.abs(dy[rest] - np.median(dy[rest]))))
    if rise < STEEPER * expected or rise - expected < NOISE * spread:
        return False
    if n is not None and rise < ERRORS * _error(y[i], y[j], n[i], n[j]):
        return False
    return float(np.median(y[j:])) - float(y[i]) >= STAYS * rise


def _error(p: float, q: float, n: float, m: float) -> float:
    """Standard error of the difference of two shares, of n and of m, were they one share."""
    pooled = (p * n + q * m) / max(n + m, 1.0)
    return math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / max(n, 1.0) + 1 / max(m, 1.0)))


def _narrowed(x: np.ndarray, y: np.ndarray, i: int, j: int) -> tuple[int, int]:
    """Of a stretch of several steps the one that makes half of its rise alone, where one does."""
    rises = np.diff(y[i : j + 1])
    top = int(np.argmax(rises))
    return (i + top, i + top + 1) if rises[top] >= STAYS * (y[j] - y[i]) else (i, j)


@dataclass(frozen=True)
class OverOrders:
    """Where walks of the same edits in several orders broke: the median, and its interval from resampling the orders.

    None stands for "not within the walk"; `broke` of `n` walks broke. Of one walk there is no interval.
    """

    median: float | None
    low: float | None
    high: float | None
    broke: int
    n: int


def over_orders(
    found: Sequence[float | int | None], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> OverOrders:
    """Median edit at which walks broke, with a bootstrap percentile interval over the walks.

    found: for each walk the edit at which it broke; None where it did not, which counts as later than every edit. So a
    median is None where half of the walks or more did not break, and the upper end where that many may not.
    """
    if not found:
        return OverOrders(None, None, None, 0, 0)
    edits = np.array([math.inf if one is None else float(one) for one in found])
    broke = int(np.isfinite(edits).sum())
    middle = _finite(_median(edits))
    if len(edits) < 2:
        return OverOrders(middle, None, None, broke, len(edits))
    rows = np.random.default_rng(seed).integers(0, len(edits), size=(resamples, len(edits)))
    medians = np.sort([_median(edits[row]) for row in rows])
    last = len(medians) - 1
    ends = [medians[round(q * last)] for q in ((1 - level) / 2, (1 + level) / 2)]
    return OverOrders(middle, _finite(ends[0]), _finite(ends[1]), broke, len(edits))


def _median(edits: np.ndarray) -> float:
    return float(median(edits.tolist()))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
