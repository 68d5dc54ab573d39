"""How long edits last: Kaplan and Meier's estimate, from checks at which each edit was right or wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Survival:
    """age: later edits in the model; alive: share of the edits not yet forgotten then; low, high: 95 % bounds.

    n: edits that were right when they were made.   forgotten: of these, how many were wrong at some check.
    end: the largest age that was looked at.
    """

    age: Float[np.ndarray, " k"]
    alive: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    n: int
    forgotten: int
    end: float

    @property
    def half_life(self) -> float:
        """The age at which half of the edits are forgotten; infinite where it was never seen."""
        below = np.flatnonzero(self.alive <= 0.5)
        return float(self.age[below[0]]) if len(below) else float("inf")

    def at(self, age: float) -> float:
        """Share of the edits that live longer than `age`; NaN beyond what was looked at."""
        if age > self.end or not self.n:
            return float("nan")
        return float(self.alive[max(int(np.searchsorted(self.age, age, side="right")) - 1, 0)])


def lifetimes(
    right: Float[np.ndarray, "n c"], taught: Bool[np.ndarray, " n"], made: Float[np.ndarray, " n"], seen: np.ndarray
) -> tuple[Float[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """(age at the first check that found the edit wrong, or at the last one; whether it was found wrong).

    right: edit x check, NaN before the edit.     taught: whether the edit was right when it was made; others are left
    out, they had nothing to forget.              made: edits in the model right after each edit.
    seen:  edits in the model at each check.      Edits that no check has looked at are left out, too.
    """
    ages, died = [], []
    for i in np.flatnonzero(taught):
        looked = np.flatnonzero(~np.isnan(right[i]))
        if not len(looked):
            continue
        wrong = looked[right[i, looked] == 0]
        ages.append(float(seen[wrong[0] if len(wrong) else looked[-1]] - made[i]))
        died.append(len(wrong) > 0)
    return np.array(ages, dtype=float), np.array(died, dtype=bool)


def survival(ages: Float[np.ndarray, " m"], died: Bool[np.ndarray, " m"]) -> Survival:
    """Kaplan and Meier's curve, beginning at age 0 with all alive; bounds by the log-log transform of Greenwood's
    variance. An edit whose checks all found it right counts as alive up to the last of them."""
    if not len(ages):
        nothing = np.empty(0)
        return Survival(nothing, nothing, nothing, nothing, 0, 0, 0.0)
    if not died.any():
        one = np.ones(1)
        return Survival(np.zeros(1), one, one, one, len(ages), 0, float(ages.max()))
    from scipy.stats import CensoredData, ecdf  # heavy to import, and many runs have nothing to estimate

    found = ecdf(CensoredData(uncensored=ages[died], right=ages[~died])).sf
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of bounds that do not exist where none is alive
        interval = found.confidence_interval(method="log-log")
    alive = found.probabilities
    low, high = (
        np.where(np.isnan(bound), alive, bound) for bound in (interval.low.probabilities, interval.high.probabilities)
    )
    age, alive, low, high = (
        np.concatenate([[first], values])
        for first, values in ((0.0, found.quantiles), (1.0, alive), (1.0, low), (1.0, high))
    )
    if len(age) > 1 and age[1] == 0:  # forgotten at a check right after the edit
        age, alive, low, high = age[1:], alive[1:], low[1:], high[1:]
    return Survival(age, alive, low, high, len(ages), int(died.sum()), float(ages.max()))
