"""Statistics on the same images under two or more models: which flipped, and what is more than noise."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Flips:
    """What became of single images between two models: wrong to right, right to wrong, and those that stayed."""

    gained: int
    lost: int
    kept_right: int
    kept_wrong: int


def flips(before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray) -> Flips:
    """Counts over the same images under two models, in the same order."""
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    gained, lost = ~first & second, first & ~second
    return Flips(int(gained.sum()), int(lost.sum()), int((first & second).sum()), int((~first & ~second).sum()))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that images flip either way equally often (McNemar's test); 1 where none flipped."""
    from scipy.stats import binomtest  # heavy to import, and rarely needed

    total = int(gained) + int(lost)
    return 1.0 if total == 0 else float(binomtest(int(gained), total, 0.5).pvalue)


def paired_bootstrap(
    before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray, n: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference in accuracy between two models on the same images, and its 95 % percentile interval."""
    return grouped_bootstrap([np.asarray(after, dtype=float) - np.asarray(before, dtype=float)], n, seed)


def bootstrap_mean(values: Sequence[float] | np.ndarray, n: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over independent units and its 95 % percentile interval; one unit has no interval (NaN).

    Units that come in groups, such as the seeds of one pair, are not independent: see `clustered_mean`.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan"), float("nan")
    return grouped_bootstrap([known], n, seed)


def clustered_mean(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over clusters of each one's mean, and its t interval over the clusters (G - 1 degrees of freedom).

    values: one a unit [n]; NaN is left out.   clusters: which cluster each unit belongs to [n].
    Units of one cluster may depend on each other in any way: only the clusters' means count, and each counts once.
    Where these are normally distributed the interval covers exactly `level`, for any number of clusters from 2 on; a
    percentile bootstrap of 6 clusters misses in 9 to 13 % of cases instead of 5 %, one of units in 18 to 26 %
    (tests/unit/test_clusters.py). Clusters that are skewed like exponentials bring it to 9 % with 6 of them.
    One cluster has no interval (NaN).
    """
    means = cluster_means(values, clusters)
    if len(means) < 2:
        return (float(means[0]) if len(means) else float("nan")), float("nan"), float("nan")
    from scipy.special import stdtrit  # heavy to import, and rarely needed

    mean, error = float(means.mean()), float(means.std(ddof=1)) / len(means) ** 0.5
    reach = float(stdtrit(len(means) - 1, (1 + level) / 2)) * error
    return mean, mean - reach, mean + reach


def cluster_means(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | np.ndarray
) -> Float[np.ndarray, " g"]:
    """The mean of each cluster's values, in order of first appearance, without NaN and clusters of nothing else."""
    found: dict[Hashable, list[float]] = {}
    for value, cluster in zip(np.asarray(values, dtype=float), clusters, strict=True):
        if np.isfinite(value):
            found.setdefault(cluster, []).append(float(value))
    return np.array([np.mean(some) for some in found.values()], dtype=float)


def grouped_bootstrap(
    groups: Sequence[Sequence[float] | np.ndarray],
    n: int = 2000,
    seed: int = 0,
    pictures: Sequence[Sequence[Hashable]] | None = None,
) -> tuple[float, float, float]:
    """Mean over groups of the mean of each one's images, and its 95 % percentile interval over pictures.

    Pictures are drawn anew within each group: the interval is of these groups (requests), not of others like them.
    pictures: for each group, which picture each of its images shows: images of one picture (its styles) are drawn
    together, as they are not independent of each other. None: each image is a picture of its own.
    """
    kept = [i for i, group in enumerate(groups) if len(group)]
    if not kept:
        return float("nan"), float("nan"), float("nan")
    known = [np.asarray(groups[i], dtype=float) for i in kept]
    rng = np.random.default_rng(seed)
    drawn = np.zeros(n)
    for i, x in zip(kept, known, strict=True):
        sums, counts = (x, np.ones(len(x))) if pictures is None else _by_picture(x, pictures[i])
        step = max(1, (1 << 22) // len(sums))  # so many draws at a time: of 50,000 images all would take gigabytes
        for k in range(0, n, step):
            rows = rng.integers(0, len(sums), size=(min(step, n - k), len(sums)))
            drawn[k : k + step] += sums[rows].sum(axis=1) / counts[rows].sum(axis=1) / len(known)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean([x.mean() for x in known])), float(low), float(high)


def _by_picture(values: np.ndarray, pictures: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Each picture's sum of values, and how many images show it."""
    seen: dict[Hashable, int] = {}
    codes = [seen.setdefault(picture, len(seen)) for picture in pictures]
    return np.bincount(codes, weights=values), np.bincount(codes).astype(float)


def by_picture(values: Sequence[float] | np.ndarray, pictures: Sequence[Hashable]) -> np.ndarray:
    """The sum of each picture's values, in order of first appearance."""
    return _by_picture(np.asarray(values, dtype=float), pictures)[0]


def clopper_pearson(right: float | int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of an accuracy of `right` out of n images."""
    from scipy.special import betaincinv

    rest = (1 - level) / 2
    low = 0.0 if right <= 0 else float(betaincinv(right, n - right + 1, rest))
    high = 1.0 if right >= n else float(betaincinv(right + 1, n - right, 1 - rest))
    return low, high


@dataclass(frozen=True)
class Violation:
    """The largest step the wrong way along alpha: its size, from where to where, and whether it is more than noise."""

    size: float
    start: float
    stop: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether it exceeds sampling noise at 5 %; p allows for having looked at all pairs of alphas."""
        return self.p < 0.05


def monotone(
    alphas: Sequence[float] | np.ndarray,
    accuracies: Sequence[float] | np.ndarray,
    rising: bool,
    n: int = 0,
    correct: np.ndarray | None = None,
) -> Violation:
    """Monotone linear interpolation: edit accuracy never falls along alpha (`rising`), original accuracy never rises.

    The noise is judged on the same images (`correct`: bool [alphas, images], McNemar's exact test), else from n alone
    as if the two accuracies were independent, which calls fewer violations real. Either way times the number of pairs.
    """
    order = np.argsort(np.asarray(alphas, dtype=float), kind="stable")
    alpha = np.asarray(alphas, dtype=float)[order]
    value = np.asarray(accuracies, dtype=float)[order] * (1 if rising else -1)
    fall = np.triu(value[:, None] - value[None, :], k=1)
    fall = np.where(np.isfinite(fall), fall, 0.0)
    pairs = len(alpha) * (len(alpha) - 1) // 2
    if not pairs or fall.max() <= 0:
        return Violation(0.0, float("nan"), float("nan"), 1.0)
    i, j = np.unravel_index(int(fall.argmax()), fall.shape)
    if correct is not None:
        rows = np.asarray(correct, dtype=bool)[order]
        found = flips(rows[i], rows[j])
        p = mcnemar(found.gained, found.lost)
    elif n > 0:
        from scipy.special import ndtr

        first, second = abs(value[i]), abs(value[j])
        spread = np.sqrt(max((first * (1 - first) + second * (1 - second)) / n, 1.0 / n**2))
        p = float(2 * ndtr(-fall[i, j] / spread))
    else:
        p = float("nan")
    return Violation(float(fall[i, j]), float(alpha[i]), float(alpha[j]), min(1.0, p * pairs))
