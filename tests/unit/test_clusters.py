"""Intervals over pairs whose seeds are not independent: how often they take nothing for something, and the reverse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edit_robust.evaluate.statistics.curves import bulge, surely_wrong
from edit_robust.evaluate.statistics.paired import (
    bootstrap_mean,
    by_picture,
    cluster_means,
    clustered_mean,
    grouped_bootstrap,
    monotone,
)
from edit_robust.report.claim_rows import UNIT, differ, row

PAIRS, SEEDS, TIMES = 6, 3, 1500
CLUSTERS = np.repeat([f"pair {k}" for k in range(PAIRS)], SEEDS)
#: Which pair and seed each unit is.
TABLE = pd.DataFrame({"model": "m", "pair": CLUSTERS, "seed": np.tile(range(SEEDS), PAIRS)})
TABLE["unit"] = TABLE.pair + " | " + TABLE.seed.astype(str)


def nothing(ratio: float, seed: int, *more: int) -> np.ndarray:
    """[times, pairs * seeds(, *more)] of mean zero; variance between pairs `ratio` times that between seeds."""
    rng = np.random.default_rng(seed)
    between = rng.normal(size=(TIMES, PAIRS, 1, *more)) * ratio**0.5
    return (between + rng.normal(size=(TIMES, PAIRS, SEEDS, *more))).reshape(TIMES, PAIRS * SEEDS, *more)


def excludes_zero(interval: tuple[float, float, float]) -> bool:
    return interval[1] > 0 or interval[2] < 0


@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0])
def test_nothing_is_seldom_called_something(ratio: float) -> None:
    """6 pairs x 3 seeds: a bootstrap of units gives a verdict on nothing in 18 % of cases and more, as it did here."""
    values = nothing(ratio, seed=1)
    found = np.mean([excludes_zero(clustered_mean(one, CLUSTERS)) for one in values])
    assert 0.035 <= found <= 0.06
    units = np.mean([excludes_zero(bootstrap_mean(one, n=300)) for one in values[:300]])
    assert units >= 0.15


def test_the_bootstrap_of_few_pairs_covers_too_little() -> None:
    """Why it is a t interval: resampling 6 pairs, and seeds within them, misses twice as often as it says."""
    rng = np.random.default_rng(2)
    missed = []
    for one in nothing(4.0, seed=3)[:600].reshape(600, PAIRS, SEEDS):
        pairs = rng.integers(0, PAIRS, (300, PAIRS, 1))
        drawn = one[pairs, rng.integers(0, SEEDS, (300, PAIRS, SEEDS))].mean(axis=(1, 2))
        low, high = np.percentile(drawn, [2.5, 97.5])
        missed.append(low > 0 or high < 0)
    assert np.mean(missed) > 0.075


def test_what_is_there_is_seen() -> None:
    """An effect of two standard deviations of a unit, over 6 pairs of 3 seeds."""
    values = nothing(2.0, seed=4) + 2.0 * 3.0**0.5
    assert np.mean([clustered_mean(one, CLUSTERS)[1] > 0 for one in values[:500]]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_verdicts_on_nothing(ratio: float) -> None:
    """The same for the lines of the table: an effect of one method, and a difference between three."""
    index = pd.MultiIndex.from_frame(TABLE[UNIT])
    values = nothing(ratio, 5, 3)[:300]
    lines = [row("c", "a", pd.Series(one[:, 0], index=index), TABLE, 1)["verdict"] for one in values]
    assert np.mean([verdict != "not seen" for verdict in lines]) <= 0.06
    tables = [pd.DataFrame(one, index=index, columns=list("xyz")) for one in values[:50]]
    assert np.mean([differ("c", "a", one, TABLE, "")["verdict"] != "not seen" for one in tables]) <= 0.1


def test_methods_change_places_within_pairs() -> None:
    """Two methods differ alike in all 18 units of 3 pairs: that is three observations, and not eighteen."""
    three = TABLE.assign(pair=np.repeat(["a", "b", "c"], 6))
    every = pd.DataFrame({"x": 0.0, "y": 0.1}, index=pd.MultiIndex.from_frame(three[UNIT]))
    line = differ("c", "a", every, three, "")
    assert (line["verdict"], line["pairs"], line["units"]) == ("not seen", 3, 18)
    assert line["difference"] == pytest.approx(0.1)
    six = pd.DataFrame({"x": 0.0, "y": 0.1}, index=pd.MultiIndex.from_frame(TABLE[UNIT]))
    assert differ("c", "a", six, TABLE, "")["verdict"] == "agrees"


def test_the_interval_by_hand() -> None:
    values, clusters = [1.0, 3.0, 4.0, np.nan, 0.0], ["a", "a", "b", "b", "c"]
    assert cluster_means(values, clusters).tolist() == [2.0, 4.0, 0.0]
    mean, low, high = clustered_mean(values, clusters)
    reach = 4.302652729911275 * 2 / 3**0.5  # t of 2 degrees of freedom, standard deviation 2
    assert (mean, low, high) == (2.0, pytest.approx(2 - reach), pytest.approx(2 + reach))
    mean, low, high = clustered_mean([1.0, 2.0], ["a", "a"])
    assert mean == 1.5 and np.isnan(low) and np.isnan(high)
    assert np.isnan(clustered_mean([], [])).all()


def test_bulges_by_hand() -> None:
    assert bulge([0.0, 3.0, 4.0], [3.0, 3.0, 0.0]) == pytest.approx(9 / 5)  # the chord is 5 long
    assert bulge([0.5, 0.6, 0.7], [0.9, 0.8, 0.7]) == pytest.approx(0.0)
    assert bulge([0.0, 1.0, 4.0], [3.0, 0.0, 0.0]) < 0
    assert np.isnan(bulge([0.5, 0.6, 0.5], [0.9, 0.8, 0.7])) and np.isnan(bulge([0.5, 0.6], [0.9, 0.8]))


def test_steps_the_wrong_way_by_hand() -> None:
    rising = np.array([[0.0, 0.4, 0.2], [0.0, 0.4, 0.2], [0.0, 0.5, 0.3]])
    assert surely_wrong(rising, list("abc"), rising=True) == pytest.approx(0.2)
    assert surely_wrong(1 - rising, list("abc"), rising=False) == pytest.approx(0.2)
    assert surely_wrong(rising[:, :2], list("abc"), rising=True) < 0
    spread = np.array([[0, 0, 0], [0, 0, 0.03], [0, 0, -0.03]])
    bound = surely_wrong(rising + spread, list("abc"), rising=True)
    reach = 7.648868 * 0.03 / 3**0.5  # t of 2 degrees of freedom at 1 - 0.025 / 3
    assert bound == pytest.approx(0.2 - reach, abs=1e-4)
    assert np.isnan(surely_wrong(rising, list("aaa"), rising=True))


def test_noise_takes_no_sure_step() -> None:
    """Flat curves, whose largest steps are all chosen by noise."""
    rng = np.random.default_rng(6)
    alphas = np.linspace(0, 1, 8)
    curves = rng.normal(0.5, 0.02, (300, 6, 8))
    assert np.mean([[monotone(alphas, one, rising=True).size for one in some] for some in curves[:20]]) > 0.03
    sure = [surely_wrong(some, list("abcdef"), rising=True) for some in curves]
    assert np.mean([low > 0 for low in sure]) <= 0.03


def test_styles_of_one_photograph_are_drawn_together() -> None:
    """A null effect on 40 photographs in 5 styles each, where the styles of a photograph mostly move together."""
    rng = np.random.default_rng(0)
    pictures = [f"p{i // 5}" for i in range(200)]
    found = {"images": [], "pictures": []}
    for _ in range(200):
        moved = np.repeat(rng.normal(size=40), 5) + 0.5 * rng.normal(size=200)
        apart, together = grouped_bootstrap([moved], 400), grouped_bootstrap([moved], 400, pictures=[pictures])
        assert apart[0] == together[0]
        found["images"].append(excludes_zero(apart))
        found["pictures"].append(excludes_zero(together))
    assert np.mean(found["images"]) > 0.25 and np.mean(found["pictures"]) < 0.13

    alone = [str(i) for i in range(200)]
    np.testing.assert_allclose(grouped_bootstrap([moved], 400, pictures=[alone]), grouped_bootstrap([moved], 400))
    assert by_picture(np.array([1.0, 0.0, -1.0, 1.0]), ["a", "b", "a", "b"]).tolist() == [0, 1]
