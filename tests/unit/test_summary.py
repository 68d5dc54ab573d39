"""One flat object from tidy records."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from edit_robust.core import Record
from edit_robust.evaluate.summary import summarise


def table(*rows: tuple) -> pd.DataFrame:
    """Rows (step, n_edits, scope, probe, metric, value, n[, layer])."""
    found = []
    for step, n_edits, scope, probe, metric, value, n, *layer in rows:
        where = (layer or [""])[0]
        found.append(Record("r", step, 1.0, n_edits, scope, probe, "none", 0, where, metric, value, n).to_dict())
    return pd.DataFrame(found, columns=list(Record.__dataclass_fields__))


ROWS = [
    (0, 0, "unedited", "edit", "success", 0.0, 2),
    (0, 0, "model", "text", "perplexity", 10.0, 100),
    (1, 1, "at-edit", "edit", "success", 1.0, 1),
    (1, 1, "at-edit", "paraphrase", "success", 0.5, 1),
    (1, 1, "at-edit", "neighbourhood", "success", 0.5, 1),
    (1, 1, "at-edit", "", "refused", 0.0, 1),
    (1, 1, "at-edit", "", "division_factor", 2.0, 1),
    (2, 2, "at-edit", "edit", "success", 0.5, 1),
    (2, 2, "at-edit", "paraphrase", "success", 0.5, 1),
    (2, 2, "at-edit", "neighbourhood", "success", 0.5, 1),
    (2, 2, "at-edit", "", "refused", 1.0, 1),
    (2, 2, "at-edit", "", "division_factor", 4.0, 1),
    (2, 2, "retention", "edit", "accuracy", 0.25, 2),
    (2, 2, "retention", "edit", "forgotten", 0.4, 2),
    (2, 2, "model", "", "drift_fro", 3.0, 9, "a"),
    (2, 2, "model", "", "drift_fro", 4.0, 9, "b"),
    (2, 2, "model", "text", "perplexity", 30.0, 100),
    (2, 2, "final", "edit", "success", 0.75, 2),
]


def test_values_by_hand() -> None:
    s = summarise(table(*ROWS), {"edit": 1.23456}, {"process": 100.0})
    assert (s["ES"], s["PS"], s["NS"]) == (75.0, 50.0, 50.0)
    assert s["S"] == pytest.approx(3 / (1 / 75 + 2 / 50))
    assert (s["unedited_ES"], s["final_ES"], s["retention_ES_acc"]) == (0.0, 75.0, 25.0)
    assert s["forgotten_pct"] == 40.0 and s["mean_division_factor"] == 3.0
    assert s["drift"] == 5.0  # both layers together
    assert (s["unedited_perplexity"], s["perplexity"]) == (10.0, 30.0)
    assert (s["n_requests"], s["n_edits"], s["n_refused"]) == (2, 2, 1)
    assert (s["seconds_edit"], s["peak_memory_mb_process"]) == (1.235, 100.0)


def test_changes_of_independent_edits_are_averaged() -> None:
    rows = [r for r in ROWS if r[2] not in ("final", "model")]
    rows += [(0, 0, "model", "text", "perplexity", 10.0, 100)]
    for step, value in ((1, 2.0), (2, 4.0)):
        rows += [(step, 1, "model", "", "drift_fro", value, 9, "a"), (step, 1, "model", "text", "perplexity", value, 9)]
    s = summarise(table(*rows))
    assert (s["drift"], s["perplexity"]) == (3.0, 3.0)


def test_what_is_not_finite_is_null() -> None:
    s = summarise(table(*ROWS[:-2], (2, 2, "model", "text", "perplexity", float("inf"), 1)))
    assert s["perplexity"] is None
    json.loads(json.dumps(s), parse_constant=lambda word: pytest.fail(word))


def test_nothing_measured() -> None:
    assert summarise(table())["n_edits"] == 0
