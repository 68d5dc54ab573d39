"""Where on the line between unedited and edited weights an accuracy gives way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def falls_fastest(alphas: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> float:
    """The middle of the two neighbouring alphas between which a curve falls most per alpha; NaN: it falls nowhere.

    alphas: rising, two or more.   values: accuracies at them. Of equally steep falls the first counts.
    """
    a, v = np.asarray(alphas, dtype=float), np.asarray(values, dtype=float)
    if len(a) < 2:
        return float("nan")
    slopes = np.diff(v) / np.diff(a)
    i = int(np.argmin(slopes))
    return float((a[i] + a[i + 1]) / 2) if slopes[i] < 0 else float("nan")


def rises_fastest(alphas: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> float:
    """The same where a curve rises."""
    return falls_fastest(alphas, -np.asarray(values, dtype=float))


def gives_way(alphas: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray, margin: float) -> float:
    """The first alpha at which a curve lies `margin` below the highest value that it had before, linear between alphas.

    NaN where it never falls so far. A curve that rises first (as accuracy on drawings may) is measured from its top.
    """
    a, v = np.asarray(alphas, dtype=float), np.asarray(values, dtype=float)
    tops = np.maximum.accumulate(v)
    below = np.flatnonzero(v <= tops - margin + 1e-12)
    if not len(below):
        return float("nan")
    i = int(below[0])
    level = tops[i] - margin
    return float(a[i - 1] + (v[i - 1] - level) / (v[i - 1] - v[i]) * (a[i] - a[i - 1]))
