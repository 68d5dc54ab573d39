"""One line of the table of claims: a mean over pairs, its interval, and the verdict that rests on it.

A unit is one pair (request) under one seed on one model. The seeds and models of one pair are not independent, as they
show the same concept in the same style: every interval is taken over pairs (`clustered_mean`), and where methods or
layers are compared with each other they change places within pairs (`permuted`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from edit_robust.evaluate.statistics.paired import cluster_means, clustered_mean
from edit_robust.report.numbers import chance

UNIT = ["model", "unit"]
#: What rounding leaves of a difference of nothing.
ZERO = 1e-9
Place = tuple[str, str]


def pairs_of(index: pd.Index, table: pd.DataFrame) -> list[str]:
    """The pair of each unit of an index of (model, unit)."""
    known = table.drop_duplicates(UNIT).set_index(UNIT)["pair"]
    return [str(pair) for pair in known.reindex(index)]


def row(
    claim: str, at: str, values: pd.Series, table: pd.DataFrame, sign: int, note: str = "", missing: str = ""
) -> dict[str, Any]:
    """One line: mean over pairs of the units' values, its interval, and whether it has the sign that the claim gives.

    values: one a unit, indexed by (model, unit).   table: says which pair and seed a unit is.
    """
    values = values.dropna()
    pairs = pairs_of(values.index, table) if len(values) else []
    mean, low, high = clustered_mean(values.to_numpy(dtype=float), pairs)
    known = table.set_index(UNIT).loc[lambda one: one.index.isin(values.index)] if len(values) else table[:0]
    verdict = "not seen"
    if min(sign * low, sign * high) > ZERO:
        verdict = "agrees"
    elif max(sign * low, sign * high) < -ZERO:
        verdict = "disagrees"
    why = missing if not len(values) else "" if verdict != "not seen" else "the interval holds zero"
    if len(values) and len(set(pairs)) < 2:
        why = f"one {'unit' if len(values) == 1 else 'pair'}: no interval"
    counts = {"units": len(values), "seeds": known.seed.nunique(), "pairs": len(set(pairs))}
    notes = "; ".join(part for part in (note, why) if part)
    return {"claim": claim, "at": at, "difference": mean, "low": low, "high": high, **counts} | {
        "verdict": verdict,
        "note": notes,
    }


def by_unit(table: pd.DataFrame, column: str) -> pd.Series:
    """Mean over layers for each unit."""
    return table.dropna(subset=column).groupby(UNIT)[column].mean()


def per_unit(found: dict[Place, list[float]]) -> pd.Series:
    """The mean of what was found for each unit, indexed by (model, unit)."""
    index = pd.MultiIndex.from_tuples(list(found), names=UNIT) if found else pd.MultiIndex.from_arrays([[], []])
    return pd.Series([float(np.mean(values)) for values in found.values()], index=index, dtype=float)


def order_of(every: pd.DataFrame) -> str:
    """The columns from the smallest penalty to the largest: `rewriting -0.102, local-collision -0.131`."""
    if every.empty or every.shape[1] < 2:
        return ""
    means = every.mean().sort_values(ascending=False)
    return ", ".join(f"{name} {value:+.3f}" for name, value in means.items())


def differ(claim: str, at: str, every: pd.DataFrame, table: pd.DataFrame, missing: str) -> dict[str, Any]:
    """One line on whether columns (methods, layers) differ over rows (units): best less worst mean.

    Best and worst are chosen by these very means, so their difference is never negative; the verdict rests on
    `permuted` instead, over the means of each pair.
    """
    pairs = pairs_of(every.index, table) if len(every) else []
    if len(set(pairs)) < 2 or every.shape[1] < 2:
        return row(claim, at, pd.Series(dtype=float), table, 1, missing=missing)
    means = every.mean()
    p = permuted(np.stack([cluster_means(every[name].to_numpy(dtype=float), pairs) for name in every], axis=1))
    line = row(claim, at, every[means.idxmax()] - every[means.idxmin()], table, 1)
    line["verdict"] = "agrees" if p < 0.05 else "not seen"
    line["note"] = f"{order_of(every)}; {chance(p)}"
    return line


def permuted(values: np.ndarray, n: int = 4000, seed: int = 0) -> float:
    """How often columns of [pairs, columns] differ as much when each pair's values change places at random.

    What differs is the sum of squares of the columns' means about their mean.
    """
    values = values - values.mean(axis=1, keepdims=True)
    seen = float((values.mean(axis=0) ** 2).sum())
    mixed = np.random.default_rng(seed).permuted(np.broadcast_to(values, (n, *values.shape)), axis=2)
    others = (mixed.mean(axis=1) ** 2).sum(axis=1)
    return float((1 + (others >= seen - 1e-12).sum()) / (1 + n))
