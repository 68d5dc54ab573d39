"""How long edits last, and the matrix of edits and checkpoints, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edit_robust.evaluate.retention_matrix import Matrix
from edit_robust.evaluate.statistics.success import forgetting
from edit_robust.evaluate.statistics.survival import survival

NAN = float("nan")


def planted() -> Matrix:
    """Six edits, checks after two, four and six of them. Edit 0 is lost and comes back, 1 is lost for good, 3 was
    never right, 4 is lost at the last check."""
    right = np.array([[1, 0, 1], [0, 0, 0], [NAN, 1, 1], [NAN, 0, 0], [NAN, NAN, 0], [NAN, NAN, 1]])
    taught = np.array([1, 1, 1, 0, 1, 1], dtype=bool)
    return Matrix(right, taught, np.arange(1.0, 7.0), np.array([2.0, 4.0, 6.0]))


def test_shares_at_each_checkpoint() -> None:
    matrix = planted()
    assert np.allclose(matrix.forgotten(), [1 / 2, 2 / 3, 2 / 5])
    assert np.allclose(matrix.forgotten(sticky=True), [1 / 2, 2 / 3, 3 / 5])
    assert np.allclose(matrix.recovered(), [0, 0, 1 / 5])


def test_the_shares_are_those_of_the_measure_forgetting() -> None:
    rng = np.random.default_rng(0)
    n, seen = 60, np.arange(10.0, 61.0, 10.0)
    right = np.where(np.arange(1, n + 1)[:, None] <= seen, (rng.random((n, len(seen))) < 0.6).astype(float), NAN)
    matrix = Matrix(right, rng.random(n) < 0.9, np.arange(1.0, n + 1), seen)
    for c, place in enumerate(seen):
        checks = [right[: int(seen[k]), k] == 1 for k in range(c + 1)]
        by_hand = forgetting(matrix.taught[: int(place)], checks)
        assert matrix.forgotten()[c] == pytest.approx(by_hand.momentary)
        assert matrix.forgotten(sticky=True)[c] == pytest.approx(by_hand.sticky)
        assert matrix.recovered()[c] == pytest.approx(by_hand.recovered)


def test_kaplan_and_meier_by_hand() -> None:
    """Ages 10 (lost), 20 (lost), 20, 30, 40 (still right): 4/5, then 3/4 of it."""
    found = survival(np.array([10.0, 20, 20, 30, 40]), np.array([1, 1, 0, 0, 0], dtype=bool))
    assert found.n == 5 and found.forgotten == 2 and found.end == 40
    assert [found.at(a) for a in (0.0, 9.0, 10.0, 19.0, 20.0, 40.0)] == pytest.approx([1, 1, 0.8, 0.8, 0.6, 0.6])
    assert np.isnan(found.at(41.0)), "nobody looked that late"
    assert found.half_life == float("inf")
    assert (found.low <= found.alive).all() and (found.alive <= found.high).all()
    assert survival(np.array([10.0, 20, 30]), np.ones(3, dtype=bool)).half_life == 20


def test_lifetimes_of_a_matrix() -> None:
    """Edit 0 died at age 3, edit 1 at age 0, edit 4 at age 1; 2 and 5 lived to ages 3 and 0; 3 was never right."""
    found = planted().survival()
    assert found.n == 5 and found.forgotten == 3
    assert found.at(0.0) == pytest.approx(4 / 5)
    assert found.at(1.0) == pytest.approx(4 / 5 * 2 / 3)
    assert found.half_life == 3
    first, last = (planted().survival(part) for part in planted().cohorts(2))
    assert (first.n, first.forgotten, last.n, last.forgotten) == (3, 2, 2, 1)


def test_nothing_forgotten_and_nothing_at_all() -> None:
    alive = survival(np.array([5.0, 9.0]), np.zeros(2, dtype=bool))
    assert alive.at(9.0) == 1 and alive.half_life == float("inf") and alive.forgotten == 0
    assert survival(np.empty(0), np.empty(0, dtype=bool)).n == 0
    assert [len(c) for c in planted().cohorts(4)] == [2, 2, 1, 1]
    assert [len(c) for c in planted().cohorts(99)] == [1] * 6
