"""The scaling paper's claims against walks that were made to agree, to disagree, or to tell nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.walk_runs import UNITS, flat, walk_run, walk_runs

from edit_robust.core.errors import UserError
from edit_robust.figures.frame import RunData
from edit_robust.report import findings
from edit_robust.report.claim_files import write_claims
from edit_robust.report.claim_lines import fieller
from edit_robust.report.claim_walks import walks
from edit_robust.report.claims_language import COLUMNS, cells, claims, to_markdown
from edit_robust.report.html import write_report

DISABLING = {"culprit_kind": "disabling edit"}
STRAW = {"culprit_kind": "accumulation"}


pytestmark = pytest.mark.slow


@cache
def plain(editor: str = "rome", at: int | None = None) -> list[RunData]:
    """Walks that forget nothing until they break; made once, and so is what is derived from them."""
    return walk_runs(editor, at=at)


def slow(slope: float, start: float = 0.2):
    """Forgetting that rises evenly: share in 100 edits."""
    return lambda n: start + slope * n / 100


def found(runs: list[RunData], words: str) -> pd.Series:
    """The one line whose claim has these words."""
    table = claims(runs)
    rows = table[table.claim.str.contains(words, regex=False)]
    assert len(rows) == 1, f"{words}: {list(table.claim)}"
    return rows.iloc[0]


def verdict(runs: list[RunData], words: str) -> str:
    return str(found(runs, words).verdict)


@pytest.mark.parametrize(("slope", "expected"), [(0.1, "agrees"), (0.0, "not seen"), (-0.1, "disagrees")])
def test_a_gradual_phase(slope: float, expected: str) -> None:
    one = found(walk_runs(forgotten=slow(slope), at=81), "gradual phase of rome")
    assert one.verdict == expected and (one.units, one.seeds, one.models) == (6, 3, 2)
    assert one.difference == pytest.approx(slope, abs=0.03) and one.low <= one.difference <= one.high
    assert "at the last check" in one.note


def test_what_comes_after_the_break_is_no_gradual_phase() -> None:
    assert abs(found(walk_runs(at=35, jump=0.7), "gradual phase of rome").difference) < 0.1
    early = found(plain(at=12), "gradual phase of rome")
    assert (early.units, early.note) == (0, "no walk has 3 checks before it broke")


def test_an_abrupt_phase() -> None:
    runs = walk_runs(at=[81, 90, 71, 72, 99, 55], forgotten=slow(0.1))
    one, leap = found(runs, "abrupt phase of rome"), found(runs, "forgetting jumps")
    assert (one.verdict, one.difference, one.units) == ("agrees", 0.5, 6)
    assert one.note == "6 of 6 walks broke, at edits 55 to 99"
    assert leap.verdict == "agrees" and leap.difference == pytest.approx(0.6, abs=0.05)
    assert verdict(walk_runs(at=81, jump=0.0), "forgetting jumps") == "not seen"
    assert verdict(walk_runs(at=81, jump=-0.3, forgotten=flat(0.4)), "forgetting jumps") == "disagrees"


def test_a_walk_that_did_not_break_may_break_later() -> None:
    one = found(plain(), "abrupt phase of rome")
    assert one.verdict == "not seen" and one.high < 0 and "no break in 6 walks of up to 120 edits" in one.note
    assert "longer walks might" in one.note and "forgetting jumps" not in " ".join(claims(plain()).claim)
    assert "not the paper's claim" in found(plain("r-rome", at=81), "abrupt phase of r-rome").note


LATER = "MEMIT breaks later than ROME"


def test_memit_breaks_later() -> None:
    rome = plain(at=81)
    for memit in (plain("memit"), plain("memit", at=102)):
        one = found([*rome, *memit], LATER)
        assert (one.verdict, one.units) == (
            "agrees",
            6,
        ) and one.note == "6 later, 0 earlier, 0 tied or not to be compared"
    assert verdict([*plain(), *plain("memit", at=81)], LATER) == "disagrees"
    mixed = walk_runs("memit", at=[50, 102, 50, 102, 50, 102])
    assert verdict([*rome, *mixed], LATER) == "not seen"


def test_ties_and_walks_too_short_tell_nothing() -> None:
    neither = found([*plain(), *plain("memit")], LATER)
    assert (neither.verdict, neither.units) == ("not seen", 0) and "in no order" in neither.note
    assert found([*plain(at=81), *plain("memit", at=81)], LATER).units == 0
    other = {"task": {"name": "world", "order": 0, "n_requests": 120}}
    cut = walk_run("memit", length=60, config=other)
    assert found([walk_run(at=81, config=other), cut], LATER).units == 0, "stopped at 60, before ROME broke"
    assert found([walk_run(at=41, config=other), cut], LATER).units == 1
    assert found(plain(), LATER).note == "no runs of MEMIT"
    another = [walk_run("memit", model, order + 3) for model, order in UNITS]
    assert found([*plain(at=81), *another], LATER).note == "no runs of both on the same requests"


@pytest.mark.parametrize(("level", "expected"), [(0.5, "agrees"), (0.1, "not seen"), (0.0, "disagrees")])
def test_ft_c_forgets_fast(level: float, expected: str) -> None:
    runs = [*walk_runs("ft", forgotten=flat(level)), *walk_runs("rome", forgotten=flat(0.1), at=81)]
    one = found([*runs, *walk_runs("memit", forgotten=flat(0.1))], "FT-C forgets faster than ROME")
    assert one.verdict == expected and one.difference == pytest.approx(level - 0.1, abs=0.02)
    assert found(runs, "FT-C forgets faster than MEMIT").note == "no runs of MEMIT"


def test_ft_c_never_breaks() -> None:
    never = "FT-C never breaks"
    assert verdict(walk_runs("ft", forgotten=slow(0.5)), never) == "agrees"
    assert verdict(plain("ft", at=81), never) == "disagrees"
    assert verdict(walk_runs("ft", at=[81, None] * 3), never) == "not seen"
    assert (
        found(walk_runs("ft", UNITS[:4]), never).note
        == "no break in 4 walks of up to 120 edits; the interval holds zero"
    )


@pytest.mark.parametrize(("takes", "expected"), [(0.1, "agrees"), (1.0, "disagrees")])
def test_mend_is_dead_early(takes: float, expected: str) -> None:
    for words in ("(preferred", "(said"):
        one = found(walk_runs("mend", takes=[takes, *[0.9 * takes] * 5]), words)
        assert one.verdict == expected and one["at"] == "edits 51 to 100"
        assert one.difference == pytest.approx(0.91 * takes - 0.5, abs=0.05)


def test_mend_half_dead_or_too_short() -> None:
    assert verdict(walk_runs("mend", takes=[0.3, 0.7] * 3), "(preferred") == "not seen"
    short = found(walk_runs("mend", takes=0.1, length=60), "(preferred")
    assert (short.units, short.note) == (0, "no walk of 70 edits")
    assert found(plain(), "(preferred").note == "no runs of MEND"


@pytest.mark.parametrize(("part", "expected"), [(1 / 3, "agrees"), (1.0, "not seen"), (3.0, "disagrees")])
def test_memit_forgets_a_third(part: float, expected: str) -> None:
    runs = [*walk_runs(forgotten=flat(0.2), at=81), *walk_runs("memit", forgotten=flat(0.2 * part))]
    for words in ("forgotten at the check", "forgotten at any check"):
        one = found(runs, words)
        assert one.verdict == expected and 1 + one.difference == pytest.approx(part, rel=0.1)
        assert f"ratio {1 + one.difference:.2f}; the paper's 0.33 lies" in one.note
        assert ("lies in the interval" in one.note) == (part == 1 / 3)


def test_a_ratio_of_next_to_nothing_is_none() -> None:
    runs = [*walk_runs(noise=0.0), *walk_runs("memit", noise=0.0)]
    one = found(runs, "forgotten at the check")
    assert one.verdict == "not seen" and np.isnan(one.difference) and "too little was forgotten" in one.note
    assert found(plain(), "forgotten at the check").note == "no runs of MEMIT"


def test_fieller_is_the_t_test_turned_round() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        second = 0.3 + 0.1 * rng.standard_normal(6)
        first = 0.5 * second + 0.05 * rng.standard_normal(6)
        _, low, high = fieller(list(zip(first, second, strict=True)))
        covered += low <= 0.5 <= high
    assert 0.91 < covered / 400 < 0.99
    assert fieller([(1.0, 2.0), (1.1, 2.2)]) == pytest.approx((0.5, 0.5, 0.5))
    assert fieller([(1.0, 2.0)])[0] == 0.5 and np.isnan(fieller([])).all()
    assert np.isnan(fieller([(1.0, 1.0), (1.0, -0.5)])[1]), "of a denominator that may be zero"


@pytest.mark.parametrize(
    ("editor", "words", "kind", "other"),
    [
        ("rome", "single-handed", DISABLING, STRAW),
        ("memit", "harmless when made first", STRAW, DISABLING),
    ],
)
def test_what_the_culprit_does_alone(editor: str, words: str, kind: dict, other: dict) -> None:
    assert verdict(walk_runs(editor, at=81, autopsy=kind), words) == "agrees"
    assert verdict(walk_runs(editor, at=81, autopsy=other), words) == "disagrees"
    half = found(walk_runs(editor, at=81, autopsy=[kind, other] * 3), words)
    assert (half.verdict, half.note) == ("not seen", "3 of 6 breaks; the interval holds zero")
    unlooked = found(walk_runs(editor, at=81), words)
    assert unlooked.units == 0 and "edit-robust autopsy" in unlooked.note
    assert found(walk_runs(editor), words).note == "no break in 6 walks of up to 120 edits"
    assert found(plain("ft"), words).note == f"no runs of {editor.upper()}"


FALL = "downstream tasks fall"


def stepping(step: float, slope: float = 0.0):
    """Downstream skill that changes by `step` at edit 80, and by `slope` an edit all along."""
    return lambda n: 0.8 + slope * n + (step if n >= 80 else 0.0)


@pytest.mark.parametrize(("step", "expected"), [(-0.5, "agrees"), (0.0, "not seen"), (0.1, "disagrees")])
def test_downstream_falls_with_the_break(step: float, expected: str) -> None:
    one = found(walk_runs(at=75, skill=stepping(step)), FALL)
    assert one.verdict == expected and one.difference == pytest.approx(step, abs=0.03)
    assert one.note.startswith("mean F1 80") or one.note.startswith("mean F1 79")


def test_an_even_loss_of_skill_is_none_with_the_break() -> None:
    one = found(walk_runs(at=75, skill=stepping(0.0, -0.004)), FALL)
    assert one.verdict == "not seen" and one.note.startswith("mean F1 55.4 % before, 47.1 % after")
    assert "asked downstream questions" in found(plain(at=75), FALL).note
    assert found(walk_runs(skill=stepping(-0.5)), FALL).units == 0, "nothing broke"


FAR = "disabling edits move weights farther"


@pytest.mark.parametrize(("times", "expected"), [(400.0, "agrees"), (1.0, "not seen"), (0.01, "disagrees")])
def test_how_far_disabling_edits_go(times: float, expected: str, tmp_path: Path) -> None:
    spread = [0.8, 1.0, 1.25, 1.1, 0.9, 1.0]
    told = [
        DISABLING | {"normalised_distance": 8e-7 * times * one, "normalised_distance_median": 8e-7} for one in spread
    ]
    one = found(walk_runs(at=81, autopsy=told, folder=tmp_path), FAR)
    assert one.verdict == expected and one.difference == pytest.approx(np.log10(times), abs=0.05)
    straw = found(walk_runs(at=81, autopsy=[t | STRAW for t in told], folder=tmp_path / "straw"), FAR)
    assert (straw.units, straw.note) == (0, "no autopsy has found a disabling edit")


def test_which_walks_are_whose() -> None:
    guarded = walk_run("rome", config={"editor": {"name": "rome", "guard": {"sign": "key_ratio"}}})
    names = [(walk.method, walk.role) for walk in walks([walk_run(), walk_run("r-rome"), walk_run("memit-seq")])]
    assert names == [("rome", "ROME"), ("r-rome", ""), ("memit-seq", "")]
    assert [(walk.method, walk.role) for walk in walks([guarded])] == [("rome, guarded", "")]
    two = [walk_run(config={"editor": {"name": "rome", "clamp": clamp}}) for clamp in (0.5, 0.75)]
    assert [walk.method for walk in walks(two)] == ["rome, clamp 0.5", "rome, clamp 0.75"]
    by_model = [
        walk_run(model=model, config={"editor": {"name": "rome", "clamp": clamp}})
        for model, clamp in (("fact-gpt", 0.5), ("fact-gpt-b", 0.75))
    ]
    assert {walk.method for walk in walks(by_model)} == {"rome"}, "settings that go with the model"
    apart = walk_run(config={"trajectory": {"name": "single"}})
    assert walks([apart, RunData("empty", pd.DataFrame())]) == [] and len(walks([walk_run(), walk_run()])) == 1


def test_walks_of_one_order_are_one_unit() -> None:
    """The same requests, once with more edits: no second opinion."""
    runs = [walk_run(forgotten=slow(0.1), length=length) for length in (100, 120)]
    one = found(runs, "gradual phase of rome")
    assert (one.units, one.verdict, one.note.split("; ")[-1]) == (1, "not seen", "one unit: no verdict")
    assert findings.shown(runs) is None and claims([]).empty and list(claims([]).columns) == list(COLUMNS)


def test_page_and_files(tmp_path: Path) -> None:
    runs = [*walk_runs(at=81, units=UNITS[:2]), *walk_runs("memit", units=UNITS[:2])]
    table = claims(runs)
    text = to_markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == len(table) + 2
    assert (
        set(table.verdict) <= {"agrees", "disagrees", "not seen"}
        and (table[table.verdict == "not seen"].note != "").all()
    )
    assert cells(table)[0][3] == "2 / 1 / 2"
    page = write_report(runs, tmp_path / "page.html").read_text()
    assert findings.TITLE in page and "MEMIT breaks later than ROME" in page and "1-LI" not in page
    written = pd.read_csv(write_claims(runs, tmp_path / "sub" / "claims.csv"))
    assert list(written.columns) == list(COLUMNS) and np.allclose(written.low, table.low, equal_nan=True)
    assert write_claims(runs, tmp_path / "claims.md").read_text() == text
    with pytest.raises(UserError, match=r"must end in \.md or \.csv"):
        write_claims(runs, tmp_path / "claims.txt")
    with pytest.raises(UserError, match="no claim can be asked"):
        write_claims([], tmp_path / "claims.md")
