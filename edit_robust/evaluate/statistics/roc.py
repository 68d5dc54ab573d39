"""How well a number tells bad from good: the area under the ROC curve, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Auc:
    """The chance that a bad one has the larger number (ties count half), with its interval; of so many bad and good."""

    value: float
    low: float
    high: float
    bad: int
    good: int


def auc(risk: Float[np.ndarray, " n"], bad: Bool[np.ndarray, " n"], level: float = 0.95) -> Auc | None:
    """The area under the ROC curve of `risk` (larger: more likely bad); None without a bad or without a good one.

    The interval is Newcombe's method 5 (Statistics in Medicine 2006, 25:559): the values whose own standard error,
    after Hanley and McNeil, leaves the estimate within reach. Other than a bootstrap it does not shrink to
    nothing where a few bad ones stand above all others. Risks may be infinite, not NaN.
    """
    from scipy.stats import mannwhitneyu, norm

    m, n = int(bad.sum()), int((~bad).sum())
    if not m or not n:
        return None
    _, ranks = np.unique(risk, return_inverse=True)  # infinities and all
    value = float(mannwhitneyu(ranks[bad], ranks[~bad], method="asymptotic").statistic) / (m * n)
    z = float(norm.ppf((1 + level) / 2))
    return Auc(value, _end(value, 0.0, z, m, n), _end(value, 1.0, z, m, n), m, n)


def _end(value: float, towards: float, z: float, m: int, n: int) -> float:
    """The last value towards 0 or 1 that the estimate is within z standard errors of."""
    inside, outside = value, towards
    if _reaches(outside, value, z, m, n):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if _reaches(middle, value, z, m, n):
            inside = middle
        else:
            outside = middle
    return inside


def _reaches(theta: float, value: float, z: float, m: int, n: int) -> bool:
    star = (m + n) / 2 - 1
    variance = theta * (1 - theta) * (1 + star * (1 - theta) / (2 - theta) + star * theta / (1 + theta)) / (m * n)
    return abs(value - theta) <= z * math.sqrt(max(variance, 0.0))


def roc(
    risk: Float[np.ndarray, " n"], bad: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """(share of the good ones that are stopped, share of the bad ones that are) for every line that could be drawn,
    from none is stopped to all are."""
    levels = np.unique(risk)[::-1]
    good, all_bad = max(int((~bad).sum()), 1), max(int(bad.sum()), 1)
    false = [0.0, *(float((risk[~bad] >= one).sum()) / good for one in levels)]
    true = [0.0, *(float((risk[bad] >= one).sum()) / all_bad for one in levels)]
    return np.array(false), np.array(true)
