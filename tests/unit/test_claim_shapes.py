"""Runs whose curves are straight, sag, dip or show nothing come out as such in the table of claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.claim_runs import ALPHAS, PAIRS, shaped_run

from edit_robust.figures.frame import RunData
from edit_robust.report.claim_curves import MIN_ALPHAS
from edit_robust.report.claims import claims

pytestmark = pytest.mark.slow

FEW = ALPHAS[::2]  # five alphas and the unedited model


def early(share: float) -> float:
    """Most of it at small alphas."""
    return 1 - (1 - share) ** 2


def runs(rise, fall, noise: float = 0.004, **more) -> list[RunData]:
    return [shaped_run(rise, fall, seed, noise=noise, **{"alphas": FEW} | more) for seed in range(3)]


def line(table: pd.DataFrame, words: str) -> pd.Series:
    (found,) = table[table.claim.str.contains(words, regex=False)].to_dict("records")
    return pd.Series(found)


def test_a_straight_line_is_not_concave() -> None:
    """Both accuracies change early along alpha, in proportion: in the plane of the two a straight line."""
    table = claims(runs(lambda s: 0.3 * early(s), lambda s: -0.05 * early(s)))
    found = line(table, "concave")
    assert (found.verdict, found.note, found.pairs, found.units) == ("not seen", "the interval holds zero", 6, 18)
    exactly = line(claims(runs(lambda s: 0.3 * early(s), lambda s: -0.05 * early(s), noise=0.0)), "concave")
    assert exactly.verdict == "not seen" and exactly.difference == pytest.approx(0.0, abs=1e-12)


def test_a_sagging_curve_disagrees() -> None:
    """The original task is lost before the edit is gained, though both come early."""
    table = claims(runs(lambda s: 0.3 * early(s), lambda s: -0.1 * early(early(s))))
    assert line(table, "concave").verdict == "disagrees"
    assert line(claims(runs(lambda s: 0.3 * s, lambda s: -0.1 * early(s))), "concave").verdict == "disagrees"


def test_a_bulging_curve_agrees() -> None:
    """The edit is gained before the original task is lost, though both come late."""
    found = line(claims(runs(lambda s: 0.3 * s**2, lambda s: -0.1 * s**6)), "concave")
    assert found.verdict == "agrees" and found.difference > 0


def test_few_alphas_tell_no_shape() -> None:
    alphas = (0.25, 0.5, 1.0)  # and the unedited model
    found = line(claims(runs(lambda s: 0.3 * early(s), lambda s: -0.1 * s**2, alphas=alphas)), "concave")
    assert (found.verdict, found.units) == ("not seen", 0)
    assert found.note == f"needs {MIN_ALPHAS} alphas from 0 to 1, ends included; there are 4"
    alphas = (0.25, 0.5, 0.75, 1.0)
    enough = line(claims(runs(lambda s: 0.3 * early(s), lambda s: -0.1 * s**2, alphas=alphas)), "concave")
    assert enough.verdict == "agrees"


def test_an_edit_that_changes_nothing_has_no_shape() -> None:
    found = line(claims(runs(lambda s: 0.0, lambda s: -0.1 * early(s), noise=0.0)), "concave")
    assert (found.verdict, found.note) == ("not seen", "no whole edit raises the edit accuracy")


def test_monotone_within_a_point_agrees() -> None:
    """Tiny steps the wrong way, as a few images make them."""
    table = claims(runs(lambda s: 0.3 * s, lambda s: -0.1 * s, noise=0.002))
    for words in ("edit accuracy never falls", "original accuracy never rises"):
        found = line(table, words)
        assert found.verdict == "agrees" and found.high < 0.01
        assert found.note == "0 of 18 curves step the wrong way by more than sampling noise"


def test_a_dip_disagrees_and_is_named() -> None:
    """Edit accuracy falls by six points in the middle in all pairs; the original task stays monotone."""
    table = claims(runs(lambda s: 0.3 * s - 0.12 * (0.55 < s < 0.65), lambda s: -0.1 * s))
    assert line(table, "edit accuracy never falls").verdict == "disagrees"
    assert line(table, "original accuracy never rises").verdict == "agrees"


def test_a_dip_of_one_pair_is_not_a_dip_of_all() -> None:
    one = [
        shaped_run(lambda s: 0.3 * s - 0.12 * (0.55 < s < 0.65), lambda s: -0.1 * s, seed, pairs=PAIRS[:1], alphas=FEW)
        for seed in range(3)
    ]
    rest = [shaped_run(lambda s: 0.3 * s, lambda s: -0.1 * s, seed, pairs=PAIRS[1:], alphas=FEW) for seed in range(3)]
    found = line(claims(one + rest), "edit accuracy never falls")
    assert found.verdict == "not seen" and "the interval does not exclude steps of 0.01" in found.note


def test_noise_is_neither_monotone_nor_not() -> None:
    """Flat curves of few images: the largest steps are three points and more, all of them noise."""
    found = line(claims(runs(lambda s: 0.0, lambda s: 0.0, noise=0.015)), "edit accuracy never falls")
    assert found.verdict == "not seen" and found.low > 0.01


def nothing(ratio: float, seed: int) -> list[RunData]:
    """No effect on eq. 1 on average, for two methods: variance between pairs `ratio` times that between seeds."""
    rng = np.random.default_rng(seed)
    found = []
    for method in ("rewriting", "local-collision"):
        pairs = rng.normal(size=(2, len(PAIRS))) * 0.02 * ratio**0.5
        for k in range(3):
            own = dict(zip(("edit", "original"), pairs + 0.02 * rng.normal(size=(2, len(PAIRS))), strict=True))
            flat = shaped_run(lambda s: 0.02 * s, lambda s: 0.0, k, method, alphas=(1.0,), effects=own)
            found.append(flat)
    return found


def test_no_effect_is_not_seen() -> None:
    """Five times nothing, through the whole table: eq. 1, eq. 2 beyond the unedited drop, two methods compared."""
    verdicts = []
    for seed in range(5):
        table = claims(nothing(4.0, seed))
        words = r"\(eq\. 1\) of .* is negative|own drop|rewriting's|methods differ"
        found = table[table["at"].eq("whole edit") & table.claim.str.contains(words)]
        assert len(found) == 6
        verdicts += list(found.verdict)
    assert sum(verdict != "not seen" for verdict in verdicts) <= 2
