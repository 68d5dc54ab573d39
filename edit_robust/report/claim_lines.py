"""One line of the table of claims about walks: a number a unit, its interval over units, and the verdict.

A unit is one order of the requests (and one seed) on one model. Several walks of one unit (more edits, other settings)
hold the same requests: they are averaged first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from edit_robust.evaluate.statistics.paired import clopper_pearson, clustered_mean
from edit_robust.report.claim_rows import ZERO, Place
from edit_robust.report.claim_walks import Walk

HALF = 0.5
Interval = tuple[float, float, float]
Pair = tuple[float, float]
Unit = tuple[str, str]


def line(
    claim: str, at: str, values: Mapping[Place, float], among: Sequence[Walk], sign: int, note: str = "", why: str = ""
) -> dict[str, Any]:
    """One line: the mean over units, its 95 % t interval, and whether it has the sign that the claim gives.

    values: one a walk, NaN for none.   among: the walks.   why: what is missing where there is no value.
    """
    known = by_unit({place: np.array(value) for place, value in values.items() if np.isfinite(value)}, among)
    found = clustered_mean([float(value) for value in known.values()], list(known))
    return judged(claim, at, found, list(known), sign, note, why)


def share(
    claim: str, at: str, yes: Mapping[Place, bool], among: Sequence[Walk], note: str = "", why: str = ""
) -> dict[str, Any]:
    """One line of a claim that holds or not in each unit: the share of units less a half, its exact binomial interval.

    A t interval of answers that are all alike has no width, however few they are; this one has. Units whose walks are
    divided equally are left out.
    """
    known = by_unit({place: np.array(float(value)) for place, value in yes.items()}, among)
    told = {unit: float(value) > HALF for unit, value in known.items() if float(value) != HALF}
    n, right = len(told), sum(told.values())
    low, high = clopper_pearson(right, n) if n else (np.nan, np.nan)
    found = (right / n - HALF if n else np.nan, low - HALF, high - HALF)
    return judged(claim, at, found, list(told), 1, note, why)


def ratio(
    claim: str, at: str, pairs: Mapping[Place, Pair], among: Sequence[Walk], paper: float, why: str = ""
) -> dict[str, Any]:
    """One line of a claim that one mean is smaller than another: their ratio less 1, with Fieller's 95 % interval.

    pairs: (numerator, denominator) of each walk.   paper: the ratio that the paper has, for the note.
    """
    known = by_unit({place: np.array(two, dtype=float) for place, two in pairs.items()}, among)
    found, low, high = fieller([(float(a), float(b)) for a, b in known.values()])
    note = f"ratio {found:.2f}" if np.isfinite(found) else ""
    if np.isfinite(low):
        inside = "lies in the interval" if low <= paper <= high else "lies outside of the interval"
        note += f"; the paper's {paper:.2f} {inside}"
    elif len(known) > 1:
        why = "too little was forgotten to take a ratio"
    return judged(claim, at, (found - 1, low - 1, high - 1), list(known), -1, note, why)


def by_unit(values: Mapping[Place, np.ndarray], among: Sequence[Walk]) -> dict[Unit, np.ndarray]:
    """The mean over the walks of each unit: (model, its order and seed)."""
    repeats = {walk.place: walk.repeat for walk in among}
    gathered: dict[Unit, list[np.ndarray]] = {}
    for place, value in values.items():
        gathered.setdefault((place[0], repeats[place]), []).append(value)
    return {unit: np.mean(several, axis=0) for unit, several in gathered.items()}


def fieller(pairs: Sequence[Pair], level: float = 0.95) -> Interval:
    """(ratio of the means, low, high) of pairs of numbers: Fieller's interval, the ratios R for which a t test of
    first - R second over the pairs finds no difference from 0. NaN bounds where these are not one finite stretch."""
    nan, n = float("nan"), len(pairs)
    values = np.array(pairs, dtype=float).reshape(n, 2)
    if not n or values[:, 1].mean() == 0:
        return nan, nan, nan
    first, second = values.mean(axis=0)
    if n < 2:
        return float(first / second), nan, nan
    reach = float(stdtrit(n - 1, (1 + level) / 2)) ** 2 / n
    spread = np.cov(values.T)
    a, b, c = np.array([second**2, first * second, first**2]) - reach * spread[[1, 0, 0], [1, 1, 0]]
    inner = b**2 - a * c
    if a <= 0 or inner < -ZERO:
        return float(first / second), nan, nan
    root = float(np.sqrt(max(inner, 0.0)))
    return float(first / second), float((b - root) / a), float((b + root) / a)


def judged(
    claim: str, at: str, found: Interval, units: Sequence[Unit], sign: int, note: str = "", why: str = ""
) -> dict[str, Any]:
    """The line of (mean, low, high) over some units.

    note: stands in any case.   why: stands where there is no verdict, unless the numbers say why themselves.
    """
    mean, low, high = found
    verdict = "not seen"
    if min(sign * low, sign * high) > ZERO:
        verdict = "agrees"
    elif max(sign * low, sign * high) < -ZERO:
        verdict = "disagrees"
    if verdict != "not seen":
        why = ""
    elif len(units) == 1:
        why = "one unit: no verdict"
    elif np.isfinite(low):
        why = "the interval holds zero"
    counts = {
        "units": len(units),
        "seeds": len({repeat for _, repeat in units}),
        "models": len({model for model, _ in units}),
    }
    notes = "; ".join(part for part in (note, why) if part)
    numbers = {"difference": mean, "low": low, "high": high}
    return {"claim": claim, "at": at, **numbers, **counts, "verdict": verdict, "note": notes}
