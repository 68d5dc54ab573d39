"""The shape of interpolation curves: do they bulge outwards, and where do they step the wrong way?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from edit_robust.evaluate.statistics.paired import clustered_mean


def bulge(edit: Sequence[float] | np.ndarray, original: Sequence[float] | np.ndarray) -> float:
    """How far a curve lies above its chord in the plane of edit accuracy (x) and original accuracy (y).

    edit, original: accuracies [alphas] in order of alpha; the chord goes from the first point (the unedited model) to
    the last (the whole edit). Returns the mean distance of the points between, at right angles to the chord; positive
    above it (a concave curve: more of the original task is left than the chord says), negative below (it sags).
    NaN without a point in between, and where the last point is not to the right of the first: such an edit does not
    raise the edit accuracy, so that no chord leads from the one to the other.
    """
    x, y = np.asarray(edit, dtype=float), np.asarray(original, dtype=float)
    along, up = x[-1] - x[0], y[-1] - y[0]
    if len(x) < 3 or not along > 0:
        return float("nan")
    heights = (along * (y - y[0]) - up * (x - x[0])) / np.hypot(along, up)
    return float(heights[1:-1].mean())


def surely_wrong(
    curves: Float[np.ndarray, "units alphas"], clusters: Sequence[Hashable], rising: bool, level: float = 0.95
) -> float:
    """A lower bound of the largest step the wrong way between two alphas that the mean over clusters of curves takes.

    curves: accuracies in order of alpha, one curve a unit.   clusters: which cluster (pair) each unit belongs to.
    rising: whether accuracies should never fall (else: never rise).
    The largest step of a single curve is chosen by its own noise, and is above zero even where nothing is wrong. Here
    every two alphas have an interval over clusters (`clustered_mean`), wide enough for all of them to hold together
    (Bonferroni); returned is the largest of their lower ends, negative where no step is sure. NaN with one cluster.
    """
    values = np.asarray(curves, dtype=float) * (1 if rising else -1)
    steps = list(combinations(range(values.shape[1]), 2))
    each = 1 - (1 - level) / max(1, len(steps))
    lows = [clustered_mean(values[:, i] - values[:, j], clusters, each)[1] for i, j in steps]
    return max(lows, default=float("nan"))
