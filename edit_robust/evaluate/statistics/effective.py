"""Effective robustness: accuracy under a shift beyond what clean accuracy lets expect (Taori et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def logit(accuracy: np.ndarray | float, n: np.ndarray | int | None = None) -> np.ndarray:
    """log(a / (1 - a)); 0 and 1 stand half an image away from the edge (of n images, else of 1000)."""
    half = 0.5 / np.asarray(1000 if n is None else n, dtype=float)
    inside = np.clip(np.asarray(accuracy, dtype=float), half, 1 - half)
    return np.asarray(np.log(inside / (1 - inside)))


def expit(value: np.ndarray | float) -> np.ndarray:
    """The inverse of `logit`."""
    return np.asarray(1 / (1 + np.exp(-np.asarray(value, dtype=float))))


@dataclass(frozen=True)
class Fit:
    """logit(shifted accuracy) = intercept + slope * logit(clean accuracy), over n standard models."""

    slope: float
    intercept: float
    n: int

    def __call__(self, clean: np.ndarray | float) -> np.ndarray:
        """The accuracy under the shift that a standard model of this clean accuracy has."""
        return expit(self.intercept + self.slope * logit(clean))


def fit_reference(clean: Sequence[float] | np.ndarray, shifted: Sequence[float] | np.ndarray) -> Fit:
    """Least squares in logits (Taori et al. 2020). Raises ValueError for fewer than two different clean accuracies."""
    x, y = logit(np.asarray(clean)), logit(np.asarray(shifted))
    if len(np.unique(x)) < 2:
        raise ValueError("a fit needs reference models of at least two different clean accuracies")
    slope, intercept = np.polyfit(x, y, 1)
    return Fit(float(slope), float(intercept), len(x))


def effective_robustness(clean: np.ndarray | float, shifted: np.ndarray | float, fit: Fit) -> np.ndarray:
    """rho: accuracy under the shift beyond what the clean accuracy lets expect."""
    return np.asarray(np.asarray(shifted, dtype=float) - fit(clean))


def fit_band(
    clean: Sequence[float] | np.ndarray,
    shifted: Sequence[float] | np.ndarray,
    at: Sequence[float] | np.ndarray,
    n: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile band of the fit at clean accuracies `at`, from resampling the reference models."""
    x, y, where = logit(np.asarray(clean)), logit(np.asarray(shifted)), logit(np.asarray(at))
    rows = np.random.default_rng(seed).integers(0, len(x), size=(n, len(x)))
    xs, ys = x[rows], y[rows]
    dx = xs - xs.mean(axis=1, keepdims=True)
    spread = (dx**2).sum(axis=1)
    fits = spread > 1e-12  # a sample of one model over and over has no line
    slope = (dx * ys).sum(axis=1)[fits] / spread[fits]
    lines = ys.mean(axis=1)[fits, None] + slope[:, None] * (where[None, :] - xs.mean(axis=1)[fits, None])
    low, high = np.percentile(lines, [2.5, 97.5], axis=0)
    return expit(low), expit(high)
