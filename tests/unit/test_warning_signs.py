"""How well a sign tells which edits break the model; the figure, the table, and the lines at a run's end."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from edit_robust.core import Record
from edit_robust.evaluate.single_edits import harms, ranked
from edit_robust.evaluate.statistics.roc import auc, roc
from edit_robust.figures import RunData, applies
from edit_robust.figures.language import warning_signs
from edit_robust.report.collapse import autopsy_lines, collapse_lines, orders_line
from edit_robust.report.signs import signs_markdown, signs_shown


def test_auc_is_the_chance_that_a_bad_one_stands_higher() -> None:
    risk, bad = np.array([3.0, 1.0, 2.0, 2.0, math.inf]), np.array([True, False, True, False, False])
    found = auc(risk, bad)
    assert found is not None and found.value == pytest.approx((2 + 1 + 0.5) / 6) and (found.bad, found.good) == (2, 3)
    assert auc(risk, np.zeros(5, dtype=bool)) is None and auc(risk, np.ones(5, dtype=bool)) is None


def test_perfect_separation_by_few_is_not_certain() -> None:
    bad = np.arange(100) >= 95
    found = auc(np.arange(100.0), bad)
    assert found is not None and found.value == found.high == 1.0 and 0.7 < found.low < 0.99
    many = auc(np.arange(1000.0), np.arange(1000) >= 500)
    assert many is not None and many.low > found.low
    worst = auc(-np.arange(100.0), bad)
    assert worst is not None and worst.value == worst.low == 0.0 and worst.high == pytest.approx(1 - found.low)


def test_the_interval_covers_the_truth() -> None:
    """Normal risks one standard deviation apart: the true area is Phi(1 / sqrt 2)."""
    rng, truth, covered = np.random.default_rng(0), float(norm.cdf(1 / math.sqrt(2))), 0
    for _ in range(300):
        risk = np.r_[rng.normal(1, 1, 12), rng.normal(0, 1, 60)]
        found = auc(risk, np.arange(72) < 12)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_the_curve_goes_from_nothing_to_everything() -> None:
    false, true = roc(np.array([4.0, 3.0, 3.0, 1.0]), np.array([True, True, False, False]))
    assert false.tolist() == [0, 0, 0.5, 1] and true.tolist() == [0, 0.5, 1, 1]
    area = float(np.trapezoid(true, false)) if hasattr(np, "trapezoid") else float(np.trapz(true, false))
    assert area == pytest.approx(auc(np.array([4.0, 3, 3, 1]), np.array([True, True, False, False])).value)  # type: ignore[union-attr]


# -- of records ----------------------------------------------------------------------------------------------------


def single_edits(n: int = 40, every: int = 4) -> pd.DataFrame:
    """Edits made apart; every so many has a small key ratio and breaks the model. The norm says nothing."""
    rows = [Record("r", 0, 1.0, 0, "model", "text", "none", 0, "", "perplexity", 5.0, 100)]
    rows += [Record("r", 0, 1.0, 0, "unedited", "neighbourhood", "none", 0, "", "accuracy", 0.9, n)]
    rng = np.random.default_rng(0)
    for step in range(1, n + 1):
        broke = step % every == 0
        told = {"key_ratio": 0.01 if broke else 0.9, "relative_norm": float(rng.uniform(1, 2)), "refused": 0.0}
        for metric, value in told.items():
            rows.append(Record("r", step, 1.0, 1, "at-edit", "", "none", 0, "", metric, value, 1, f"id{step}"))
        neighbours = 0.1 if broke and step % (2 * every) else 0.9
        rows.append(Record("r", step, 1.0, 1, "at-edit", "neighbourhood", "none", 0, "", "accuracy", neighbours, 1))
        text = math.nan if step == every else 500.0 if broke else 5.1
        rows.append(Record("r", step, 1.0, 1, "model", "text", "none", 0, "", "perplexity", text, 100))
    return pd.DataFrame([r.to_dict() for r in rows])


def run_of(records: pd.DataFrame) -> RunData:
    config = {"editor": {"name": "rome"}, "trajectory": {"name": "single"}, "model": {"name": "m"}}
    return RunData("r", records, config, {"unedited_perplexity": 5.0})


def test_what_single_edits_did() -> None:
    table = harms(single_edits())
    assert (
        len(table) == 40
        and table.broke.sum() == 10
        and list(table[table.broke].id) == [f"id{4 * i}" for i in range(1, 11)]
    )
    assert table[table.step == 4].harm.iloc[0] == math.inf, "a perplexity that is not finite"
    assert table[table.step == 8].harm.iloc[0] == pytest.approx(math.log2(100))
    assert table[table.step == 1].harm.iloc[0] == pytest.approx(math.log2(5.1 / 5.0))
    best, worst = ranked(table)
    assert best[0].key == "key_ratio" and best[1].value == 1.0 and worst[1].low < 0.5 < worst[1].high
    piled = single_edits().assign(n_edits=lambda t: t.step)
    assert harms(piled).empty and harms(piled.iloc[:0]).empty


def test_figure_and_table() -> None:
    run = run_of(single_edits())
    assert applies(warning_signs, [run]) and not applies(warning_signs, [run_of(single_edits().iloc[:2])])
    figure = warning_signs.draw([run])
    assert len(figure.axes) == 4
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert any(t.startswith("AUC 1.00 [") for t in texts)
    shown = signs_shown([run])
    assert shown is not None and [line[2] for line in shown["lines"]] == ["low", "high"]
    assert shown["lines"][0][3].startswith("1.000 [") and shown["lines"][0][4] == "10 of 40"
    assert signs_markdown([run]).count("\n|") == 3 and signs_shown([]) is None and signs_markdown([]) == ""
    other = {"editor": {"name": "memit"}}
    alone = single_edits().query("metric != 'relative_norm'")  # an editor that does not tell one of the signs
    both = warning_signs.draw([run, RunData("m", alone, {**run.config, **other}, {"unedited_perplexity": 5.0})])
    assert [sum(t.get_text().startswith("AUC") for t in ax.texts) for ax in both.axes] == [0, 0, 2, 1]
    harmless = run_of(single_edits(every=100))
    assert "no edit broke the model" in str(
        [t.get_text() for ax in warning_signs.draw([harmless]).axes for t in ax.texts]
    )


# -- in words ------------------------------------------------------------------------------------------------------

BROKE = {
    **{"inflection_edit": 82, "inflection_after": 80, "inflection_until": 90, "culprit_edit": 82, "culprit_id": "221"},
    **{"culprit_kind": None, "culprit_sign": "key_ratio", "culprit_sign_value": 0.002, "culprit_sign_median": 0.94},
    **{"prevented_by": "editor.guard=key-ratio", "prevented_catches": 3, "n_edits": 100},
}
ASKED = pd.DataFrame([{"probe": "edit", "group": "221", "x": "Vorm was born in", "choices": [], "target": 0}])


def test_the_last_lines_of_a_run_that_broke() -> None:
    first, second, third = collapse_lines(BROKE, {}, ASKED, "edit-robust run editor=rome", "rome-1")
    assert 'the suspect is edit 82, request 221 ("Vorm was born in")' in first
    assert "k̄·u is 0.002, where the median edit has 0.94" in first
    assert "`edit-robust run editor=rome editor.guard=key-ratio` or `edit-robust run editor=r-rome`" in second
    assert "3 of these 100 edits" in second
    swept = collapse_lines(BROKE, {}, ASKED, "edit-robust run -m editor=rome,ft", "rome-1")
    assert swept[1].startswith("`editor.guard=key-ratio` or `editor=r-rome` would")
    assert third.startswith("`edit-robust autopsy rome-1`")


def test_after_an_autopsy_the_kind_is_said() -> None:
    lines = collapse_lines({**BROKE, "culprit_kind": "disabling edit"}, {}, None, "", "rome-1")
    assert len(lines) == 2 and "suspect" not in lines[0] and lines[0].endswith("it breaks it, too: a disabling edit.")


def test_a_break_without_a_suspect() -> None:
    lines = collapse_lines({"inflection_edit": 90, "inflection_until": 90}, {}, None, "", "r")
    assert lines[0] == "The model broke at edit 90; no edit there sticks out by its size." and "autopsy r" in lines[1]
    assert collapse_lines({"inflection_edit": None}, {}) == [] and collapse_lines({}, {}) == []


def test_the_autopsy_in_words() -> None:
    stands = {"before": {"perplexity": 10.7, "kept": 0.8}, "after": {"perplexity": None, "kept": 0.0}}
    alone = {"unedited": {"perplexity": 4.7}, "alone": {"perplexity": 903.0}}
    found = {**BROKE, "culprit_kind": "disabling edit", "subject": "Vorm", **stands, **alone}
    text = "\n".join(autopsy_lines({**found, "prevented": {"editor=r-rome": "leaves perplexity at 4.8"}}, 100))
    assert text.startswith('disabling edit: edit 82 of 100, request 221, "Vorm"')
    assert "in the walk: perplexity 10.7 to not finite; past edits 80 % to 0 %" in text
    assert "alone in the unedited model: perplexity 4.7 to 903" in text
    assert "prevented by editor=r-rome: leaves perplexity at 4.8" in text
    kept = {"broke": 3, "n": 4, "median": 210.0, "low": 190.0, "high": None}
    assert orders_line(kept) == "3 of 4 walks broke; median edit 210 [95 % over orders: 190 to beyond the walk]"
    assert orders_line({**kept, "broke": 0}) == "none of the 4 walks broke"
