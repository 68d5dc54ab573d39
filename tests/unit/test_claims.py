"""The paper's claims against runs that were made to agree, to disagree, or to tell nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_image_metrics import image_run

from edit_robust.figures.frame import RunData
from edit_robust.report import findings
from edit_robust.report.claims import COLUMNS, MATCHED, WHOLE, claims, permuted, role, to_markdown

pytestmark = pytest.mark.slow

#: Few variants: the claims take means over them.
SMALL: dict = {"corruptions": ("fog",), "severities": (3,)}
SIX: dict = SMALL | {"requests": tuple(f"{pair}-snow" for pair in ("road", "grass", "sea", "wall", "table", "sand"))}


def runs(spec: dict[str, tuple[float, float]], layers: tuple[int, ...] = (5, 9), **more) -> list[RunData]:
    """Methods by (gain, cost); layer 9 costs twice as much as layer 5. Two seeds, six pairs."""
    return [
        image_run(method, layer, seed, gain=gain, cost=cost * (2 if layer == 9 else 1), **SIX | more)
        for method, (gain, cost) in spec.items()
        for layer in layers
        for seed in (0, 1)
    ]


def found(table: pd.DataFrame, words: str, at: str = "") -> pd.Series:
    rows = table[table.claim.str.contains(words, regex=False) & table["at"].str.startswith(at)]
    assert len(rows) >= 1, words
    return rows.iloc[0]


@pytest.fixture(scope="module")
def agreeing() -> pd.DataFrame:
    spec = {"rewriting": (0.2, 0.01), "local-collision": (0.4, 0.2), "local-ft": (0.4, 0.05), "global-ft": (0.42, 0.2)}
    return claims(runs(spec))


def test_roles_by_the_words_of_the_name() -> None:
    names = ["rewriting", "local_collision", "global-collision", "local-ft", "one-layer", "global_supervised", "paint"]
    expected = ["rewriting", "local collision", "global collision", *["1-layer fine-tuning"] * 2]
    assert [role(name) for name in names] == [*expected, *["global fine-tuning"] * 2]
    assert role("low-rank") == "" and role("gift") == "" and role("local-ft, lr 0.1") == "1-layer fine-tuning"


def test_runs_that_agree(agreeing: pd.DataFrame) -> None:
    assert list(agreeing.columns) == list(COLUMNS)
    for words in ("(eq. 1) of rewriting is negative", "(eq. 2) of global-ft is negative", "concave", "monotone"):
        one = found(agreeing, words)
        assert one.verdict == "agrees", one
    one = found(agreeing, "rewriting's original-task penalty", WHOLE)
    assert (one.verdict, one.units, one.seeds, one.pairs) == ("agrees", 12, 2, 6)
    assert one.difference == pytest.approx(2 * 1.5 * (0.2 - 0.01)) and one.low <= one.difference <= one.high
    assert found(agreeing, "depends on the layer").verdict == "agrees"
    assert found(agreeing, "1-LI is above", MATCHED).verdict == "agrees"
    assert found(agreeing, "1-LI is above", f"{MATCHED}, layer 5").difference > 0


def test_matched_accuracy_shrinks_the_gap(agreeing: pd.DataFrame) -> None:
    whole, matched = (found(agreeing, "rewriting's original-task penalty", at) for at in (WHOLE, MATCHED))
    assert 0 < matched.difference < 0.5 * whole.difference


def test_ranking_names_the_order(agreeing: pd.DataFrame) -> None:
    assert found(agreeing, "methods differ", MATCHED).note.startswith(("global-ft", "local"))
    assert found(agreeing, "methods differ", WHOLE).verdict == "not seen"  # made with the same penalty


def test_runs_that_disagree() -> None:
    table = claims(runs({"rewriting": (0.2, 0.2), "local-collision": (0.4, 0.01)}, layers=(5,)))
    assert found(table, "rewriting's original-task penalty", WHOLE).verdict == "disagrees"
    better = claims(runs({"rewriting": (0.2, -0.02)}, layers=(5,)))
    assert found(better, "(eq. 1) of rewriting is negative").verdict == "disagrees"


def test_runs_that_cannot_tell() -> None:
    table = claims([image_run(alphas=(1.0,), requests=("road-snow",))])
    assert set(table[table.units <= 1].verdict) == {"not seen"}
    assert found(table, "(eq. 1) of rewriting").note == "one unit: no interval"
    assert "needs runs of both" in found(table, "1-LI").note
    assert claims([]).empty and list(claims([]).columns) == list(COLUMNS)


def test_columns_are_compared_within_units() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 12, 3))
    by_chance = np.array([permuted(one, n=400) for one in noise])
    assert 0.01 < (by_chance < 0.05).mean() < 0.1  # 5 % of nothing is called something
    units = 10 * np.arange(12.0)[:, None]  # units differ far more than columns do
    assert permuted(0.1 * noise[0] + units + np.array([0.0, 0.0, 0.5])) < 0.01
    assert permuted(np.ones((6, 2))) == 1.0
    assert permuted(np.array([[0.0, 1.0], [0.0, 1.0]])) > 0.3  # two units cannot tell


def test_markdown_and_page(agreeing: pd.DataFrame) -> None:
    text = to_markdown(agreeing)
    lines = text.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| agrees |" in text and "2 / 6 / 12" in text and "fractions" in lines[-1]
    assert findings.shown([image_run(**SMALL)]) is None
    assert not np.isfinite(claims([image_run(alphas=(1.0,))]).difference).all()
