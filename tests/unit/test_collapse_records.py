"""Where a walk broke and which edit is suspected, from records alone."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from edit_robust.core import Record
from edit_robust.evaluate.collapse import Collapse, diagnose, edits, piles_up, prevention
from edit_robust.evaluate.summary import RecordsAlone

N, EVERY = 100, 10


def walk(
    at: int | None = None,
    curves: tuple[str, ...] = ("perplexity", "forgotten", "NS_acc", "drift"),
    sign: float = 40.0,
    ratio: float = 0.9,
    batch: int = 1,
    **told: float,
) -> pd.DataFrame:
    """A walk of 100 edits checked every ten; from edit `at` on the named curves are broken.

    sign, ratio: relative norm and key ratio of that edit, others have about 1 and 0.9.   told: what else it tells.
    """
    rng, rows = np.random.default_rng(0), []
    rows.append(Record("r", 0, 1.0, 0, "model", "text", "none", 0, "", "perplexity", 5.0, 100))
    for step in range(1, N // batch + 1):
        n = step * batch
        broken = {name for name in curves if at is not None and n >= at}

        def record(scope: str, probe: str, metric: str, value: float, of: int, layer: str = "", who: str = "") -> None:
            rows.append(Record("r", step, 1.0, n, scope, probe, "none", 0, layer, metric, value, of, who))  # noqa: B023

        for number in range(n - batch + 1, n + 1):
            here = number == at
            own = {"relative_norm": sign if here else float(rng.uniform(0.8, 1.2))}
            own |= {"key_ratio": ratio if here else float(rng.uniform(0.8, 1.0)), "refused": 0.0} | (
                told if here else {}
            )
            for metric, value in own.items():
                record("at-edit", "", metric, value, 1, who=f"id{number}")
        record("at-edit", "neighbourhood", "accuracy", 0.05 if "NS_acc" in broken else 0.9, batch)
        if n % EVERY == 0:
            record("model", "text", "perplexity", 3000.0 if "perplexity" in broken else 5 + 0.01 * n, 100)
            record("retention", "edit", "forgotten", 0.95 if "forgotten" in broken else 0.001 * n, n)
            record("model", "", "drift_fro", 1e4 if "drift" in broken else math.sqrt(n), 9, layer="w")
    return pd.DataFrame([r.to_dict() for r in rows])


@pytest.mark.parametrize("at", [1, 10, 11, 42, 50, 91, 99, 100])
def test_the_planted_edit_is_suspected(at: int) -> None:
    found = diagnose(walk(at))
    assert found.edit == at and found.suspect is not None and (found.suspect.edit, found.suspect.id) == (at, f"id{at}")
    assert found.broke is not None and found.broke.after < at <= found.broke.until
    assert found.suspect.worst is not None and found.suspect.worst.key == "relative_norm"
    assert found.suspect.medians["relative_norm"] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("curve", ["perplexity", "forgotten", "NS_acc"])
def test_one_curve_is_enough(curve: str) -> None:
    found = diagnose(walk(42, (curve,)))
    assert found.edit == 42 and set(found.curves) == {curve}


def test_drift_alone_breaks_nothing() -> None:
    found = diagnose(walk(42, ("drift",)))
    assert found.edit is None and found.suspect is None and set(found.curves) == {"drift"}
    assert diagnose(walk()).to_dict() == dict.fromkeys(diagnose(walk()).to_dict())


def test_an_edit_that_does_not_stick_out_is_no_suspect() -> None:
    """The inflection is then where the newest neighbours begin to be wrong."""
    found = diagnose(walk(42, sign=1.1))
    assert found.suspect is None and found.edit == 42
    assert diagnose(walk(42, ("perplexity",), sign=1.1)).edit == 50, "the check that shows it"


def test_edits_that_were_not_made_are_no_suspects() -> None:
    assert diagnose(walk(42, refused=1.0)).suspect is None
    assert diagnose(walk(42, guarded=1.0, guard_scale=0.01)).suspect is None


def test_which_guard_would_have_stopped_it() -> None:
    by_ratio = diagnose(walk(42, ratio=0.01)).prevention
    assert by_ratio is not None and (by_ratio.option, by_ratio.catches) == ("editor.guard=key-ratio", 1)
    by_norm = diagnose(walk(42)).prevention
    assert by_norm is not None and (by_norm.option, by_norm.catches) == ("editor.guard=norm", 1)
    own_line = diagnose(walk(42, sign=4.0)).prevention
    assert own_line is not None and own_line.option == "'editor.guard={sign:relative_norm,above:2.2}'"
    early = diagnose(walk(2)).prevention
    assert early is not None and "above" in early.option, "five edits must be there before a median is a line"
    table = edits(walk(42))
    lonely = diagnose(walk(42)).suspect
    assert lonely is not None and prevention(table, lonely, ()) is None


def test_numbers_of_batches() -> None:
    table = edits(walk(42, batch=2))
    assert list(table.number) == list(range(1, 101)) and list(table.id[:3]) == ["id1", "id2", "id3"]
    assert list(table.step[:4]) == [1, 1, 2, 2]
    found = diagnose(walk(42, batch=2))
    assert found.suspect is not None and found.suspect.edit == 42


def test_what_stands_in_the_summary() -> None:
    found = {c.key: c.value for c in Collapse.columns(RecordsAlone(walk(42, ratio=0.01)))}
    assert (found["inflection_edit"], found["culprit_edit"], found["culprit_id"]) == (42, 42, "id42")
    assert (
        found["culprit_kind"] is None and found["culprit_sign"] == "key_ratio" and found["culprit_sign_value"] == 0.01
    )

    class Examined(RecordsAlone):
        autopsy = {"culprit_kind": "accumulation", "culprit_edit": 43, "alone": {}}  # noqa: RUF012

    later = {c.key: c.value for c in Collapse.columns(Examined(walk(42)))}
    assert (later["culprit_kind"], later["culprit_edit"]) == ("accumulation", 43) and "alone" not in later


def test_edits_made_apart_break_nothing_together() -> None:
    apart = walk(42).assign(n_edits=1)
    assert not piles_up(apart) and Collapse.columns(RecordsAlone(apart)) == []
    assert piles_up(walk())


def test_perplexities_that_are_not_finite_are_the_worst() -> None:
    records = walk(42, ())
    broken = (records.metric == "perplexity") & (records.n_edits >= 42)
    records.loc[broken, "value"] = math.nan
    assert diagnose(records).edit == 42
