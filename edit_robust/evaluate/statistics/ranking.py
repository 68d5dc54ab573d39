"""Who is better, and is it more than noise: paired differences over clusters, and ranks that say when they are shared.

A cluster is what is independent of the others: one order of a sequence of edits, one concept-style pair, one request.
Every method has a number for each cluster, and two methods are compared cluster by cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from edit_robust.evaluate.statistics.paired import clustered_mean

Interval = tuple[float, float, float]
Clusters = Mapping[Hashable, float]


def mean_of(values: Clusters) -> Interval:
    """Mean over clusters and its 95 % t interval (`clustered_mean`); one cluster has none (NaN)."""
    return clustered_mean(list(values.values()), list(values))


def paired(first: Clusters, second: Clusters) -> Interval:
    """Mean difference first - second over the clusters that both have, and its 95 % t interval."""
    return mean_of({c: first[c] - second[c] for c in first if c in second})


def pseudo_values(
    parts: Mapping[Hashable, Sequence[float]], of: Callable[[Sequence[float]], float]
) -> dict[Hashable, float]:
    """A number a cluster for a statistic that is no mean over clusters: Tukey's G s(all) - (G - 1) s(all but this one).

    parts: several numbers a cluster, which are averaged over clusters before `of` makes the statistic of them. Where
    `of` is linear each pseudo-value is the cluster's own number. The mean of pseudo-values estimates the statistic, and
    their t interval is the jackknife's.
    """
    table = np.array([list(some) for some in parts.values()], dtype=float)
    n = len(table)
    if n < 2:
        return {c: of(list(row)) for c, row in zip(parts, table, strict=True)}
    total, whole = table.sum(axis=0), of(list(table.mean(axis=0)))
    return {c: n * whole - (n - 1) * of(list((total - row) / (n - 1))) for c, row in zip(parts, table, strict=True)}


def ranks(values: Mapping[str, Clusters], better: int) -> dict[str, tuple[int, int]]:
    """The best and the worst rank of each method that the paired differences leave possible, 1 for the best.

    better: 1 where large numbers are good, -1 where small ones are. A method ranks behind every other that beats it:
    the whole interval of their difference lies on that side of zero. Two that do not differ share ranks. Methods
    without a number have no rank. Differences are not corrected for the number of pairs.
    """
    known = [name for name, some in values.items() if np.isfinite(list(some.values())).any()]
    found = {}
    for name in known:
        above = sum(_beats(values[other], values[name], better) for other in known if other != name)
        below = sum(_beats(values[name], values[other], better) for other in known if other != name)
        found[name] = (1 + above, len(known) - below)
    return found


def _beats(first: Clusters, second: Clusters, better: int) -> bool:
    """Whether first is better than second by more than noise."""
    _, low, high = paired(first, second)
    return bool(min(better * low, better * high) > 1e-9)
