"""Where curves break: planted breaks are found where they are, and gradual curves have none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edit_robust.evaluate.statistics.inflection import inflection, over_orders

X = np.arange(0.0, 301.0, 10.0)


def share(level: float) -> float:
    return 0.25


def noisy(y: np.ndarray, seed: int = 0, size: float = 0.01) -> np.ndarray:
    return y + size * np.random.default_rng(seed).standard_normal(len(y))


@pytest.mark.parametrize("at", [1, 2, 9, 10, 11, 100, 155, 221, 290, 299, 300])
def test_a_planted_jump_is_found_between_its_two_checks(at: int) -> None:
    y = np.where(at <= X, 0.9, 0.0005 * X)
    found = inflection(X, noisy(y), share)
    assert found is not None and found.after < at <= found.until and found.until - found.after == 10
    assert found.high - found.low > 0.5


@pytest.mark.parametrize(
    "y",
    [
        X / 300,
        np.sqrt(X / 300),
        (X / 300) ** 2,
        1 - np.exp(-X / 100),
        1 / (1 + np.exp(-(X - 150) / 40)),
        np.zeros(len(X)),
        0.2 * X / 300,
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_gradual_curves_have_none(y: np.ndarray, seed: int) -> None:
    """However far they rise: 80 % forgotten after 300 edits, evenly, is no collapse."""
    assert inflection(X, noisy(y, seed), share) is None


def test_a_fast_stretch_counts_where_it_is_short_and_steep_against_the_rest() -> None:
    """Three checks of thirty: from 10 to 90 %."""
    y = np.interp(X, [0, 140, 170, 300], [0.0, 0.1, 0.9, 0.92])
    found = inflection(X, noisy(y, 3, 0.005), share)
    assert found is not None and 140 <= found.after < found.until <= 170
    slow = np.interp(X, [0, 100, 250, 300], [0.0, 0.1, 0.9, 0.92])
    assert inflection(X, noisy(slow, 3, 0.005), share) is None


def test_what_comes_back_is_no_break() -> None:
    y = 0.0005 * X
    y[15] = 0.9
    assert inflection(X, y, share) is None


def test_a_jump_that_does_not_matter_is_none() -> None:
    assert inflection(X, np.where(X >= 150, 0.2, 0.0), share) is None


def test_a_share_of_few_must_rise_by_more() -> None:
    """None of ten forgotten, then half of ten: that happens by chance; of a hundred it does not."""
    x, y = np.array([0.0, 10, 20, 30, 40]), np.array([0.0, 0.0, 0.5, 0.5, 0.5])
    assert inflection(x, y, share, np.array([10.0, 10, 10, 30, 40])) is None
    assert inflection(x, y, share, np.array([100.0, 100, 200, 300, 400])) is not None


def test_noise_alone_hardly_ever_breaks() -> None:
    found = [inflection(X, noisy(np.full(len(X), 0.4), seed, 0.1), share) for seed in range(200)]
    assert sum(f is not None for f in found) <= 2


def test_checks_without_a_value_are_left_out() -> None:
    y = np.where(X >= 150, 0.9, 0.0)
    y[15] = math.nan
    found = inflection(X, y, share)
    assert found is not None and (found.after, found.until) == (140, 160)


def test_too_short_a_walk_has_no_rest_to_compare_with() -> None:
    assert inflection(np.array([0.0, 10]), np.array([0.0, 1.0]), share) is None


def test_orders() -> None:
    all_broke = over_orders([200, 210, 190, 205])
    assert all_broke.median == 202.5 and all_broke.broke == all_broke.n == 4
    assert all_broke.low is not None and 190 <= all_broke.low < 202.5 < (all_broke.high or 0) <= 210
    some = over_orders([200, None, 190, 205])
    assert some.median == 202.5 and some.broke == 3 and some.high is None and some.low is not None
    assert over_orders([None, None, 190]).median is None
    alone = over_orders([200])
    assert alone.median == 200 and alone.low is alone.high is None
    assert over_orders([200, 210, None, 205]) == over_orders([200, 210, None, 205]), "the resampling is seeded"
    assert over_orders([]).n == 0


def test_the_interval_covers_the_median() -> None:
    """Of orders whose break is drawn uniformly, the interval holds the true median about as often as it says."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        found = over_orders(rng.uniform(100, 300, 12).tolist(), resamples=400)
        covered += found.low is not None and found.high is not None and found.low <= 200 <= found.high
    assert covered >= 85
