"""Numbers of a classification against scikit-learn's definitions worked out by hand, and their floors."""

from __future__ import annotations

import numpy as np
import pytest

from edit_robust.evaluate.statistics.classification import (
    INVALID,
    classified,
    floor_coin,
    floor_constant,
    matthews,
    weighted_f1,
)

RIGHT = np.array([0, 1] * 100)


def by_definition(right: np.ndarray, said: np.ndarray) -> float:
    """Weighted F1 from precision and recall."""
    total = 0.0
    for label in set(right.tolist()):
        hit = ((right == label) & (said == label)).sum()
        precision = hit / max((said == label).sum(), 1)
        recall = hit / (right == label).sum()
        f1 = 0.0 if hit == 0 else 2 * precision * recall / (precision + recall)
        total += f1 * (right == label).mean()
    return total


def test_against_the_definitions() -> None:
    draw = np.random.default_rng(0)
    for classes in (2, 3, 7):
        right, said = draw.integers(0, classes, 60), draw.integers(INVALID, classes, 60)
        assert weighted_f1(right, said) == pytest.approx(by_definition(right, said))
    right, said = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1, 1])
    # TP 3, FN 1, TN 1, FP 1: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2)
    assert matthews(right, said) == pytest.approx(2 / 8)


def test_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(1)
    for _ in range(5):
        right, said = draw.integers(0, 2, 50), draw.integers(INVALID, 2, 50)
        assert weighted_f1(right, said) == pytest.approx(
            metrics.f1_score(right, said, average="weighted", zero_division=0)
        )
        assert matthews(right, said) == pytest.approx(metrics.matthews_corrcoef(right, said))


def test_invalid_answers_are_wrong_and_without_weight() -> None:
    nothing = classified(RIGHT, np.full(200, INVALID))
    assert (nothing.f1, nothing.accuracy, nothing.mcc, nothing.invalid, nothing.n) == (0, 0, 0, 1, 200)
    half = np.where(np.arange(200) < 100, RIGHT, INVALID)
    assert classified(RIGHT, half).f1 == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert classified(RIGHT, half).invalid == 0.5 and classified(RIGHT, RIGHT).f1 == 1
    assert np.isnan(classified(RIGHT[:0], RIGHT[:0]).f1)


def test_floors() -> None:
    """33.3 and 50 where two labels are balanced; what constants and coins really get."""
    assert floor_constant(RIGHT) == pytest.approx(1 / 3) == pytest.approx(weighted_f1(RIGHT, np.zeros(200, dtype=int)))
    assert floor_coin(RIGHT, 2) == pytest.approx(0.5)
    draw = np.random.default_rng(2)
    for shares, labels in (([0.5, 0.5], 2), ([0.2, 0.3, 0.5], 3)):
        right = draw.choice(len(shares), 50_000, p=shares)
        coin = draw.integers(0, labels, 50_000)
        assert floor_coin(right, labels) == pytest.approx(weighted_f1(right, coin), abs=0.01)
        constants = [weighted_f1(right, np.full(50_000, c)) for c in range(labels)]
        assert floor_constant(right) == pytest.approx(max(constants))
