"""Past edits are asked their own question at every check, and all questions more seldom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.runs import go, options, override, prepared

from edit_robust.core import Record
from edit_robust.evaluate.answers import Answers
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.scorer import Scorer
from edit_robust.runs.reader import Run

Made = Callable[..., Run]


@pytest.fixture(scope="module")
def made(
    tiny_model: Callable[[str], CausalLM],
    checkpoint: Callable[[str], Path],
    facts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    given = options(checkpoint("gpt2"), facts, tmp_path_factory.mktemp("runs") / "outputs", "ft")

    def make(*more: str) -> Run:
        return go(prepared(override(given, "trajectory.every=1", *more), tiny_model("gpt2")))

    return make


def retention(run: Run, step: int) -> pd.DataFrame:
    table = run.records
    return table[(table.scope == "retention") & (table.step == step)].reset_index(drop=True)


def test_forgetting_needs_the_edits_own_question_alone(made: Made) -> None:
    """The numbers of a check that asks less are those of one that asks everything, for whatever both asked."""
    seldom, often = made("trajectory.every_full=3"), made("trajectory.every_full=1")
    assert seldom.id != often.id
    for step in (1, 2, 3, 4):
        a, b = retention(seldom, step), retention(often, step)
        full = step in (3, 4)
        assert set(a.probe) - {""} == ({"edit", "paraphrase", "neighbourhood"} if full else {"edit"})
        assert set(a.metric) >= {"success", "accuracy"} and ("S" in set(a.metric)) == full
        both = b if full else b[b.probe == "edit"].reset_index(drop=True)
        pd.testing.assert_frame_equal(a.drop(columns="run"), both.drop(columns="run"))
        asked = seldom.arrays(step, "answers")["retention|index"]
        assert len(asked) == (len(often.arrays(step, "answers")["retention|index"]) if full else step)
    for key in ("forgotten_pct", "forgotten_es_pct", "retention_ES", "retention_PS", "retention_NS", "retention_S"):
        assert seldom.summary.get(key) == often.summary.get(key), key
    assert seldom.summary["retention_PS"] is not None


def test_the_last_check_and_the_end_are_asked_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Scorer.score

    def score(self: Scorer, which: Any = None) -> Any:
        asked.append(-1 if which is None else len(which))
        return real(self, which)

    monkeypatch.setattr(Scorer, "score", score)
    run = made("trajectory.every=4", "seed=7")
    last = run.arrays(4, "answers")
    everything = len(last["final|index"])
    assert np.array_equal(last["retention|index"], last["final|index"])
    assert np.array_equal(last["retention|logp"], last["final|logp"])
    assert asked.count(everything) == 2, "before the edits, and once after them"


def test_the_status_says_how_questions_are_run(made: Made) -> None:
    assert made("trajectory.every_full=3").status["questions"] == "from the projection of block 0 on"


def test_a_summary_of_a_run_under_way_takes_the_last_full_check() -> None:
    lines = [
        Record("r", step, 1.0, step, "retention", probe, "none", 0, "", "success", value, step, "")
        for step, probes in ((10, ["edit", "paraphrase", "neighbourhood"]), (20, ["edit"]))
        for probe, value in zip(probes, (step / 100, 0.5, 0.25), strict=False)
    ]
    results: Any = SimpleNamespace(records=pd.DataFrame([r.to_dict() for r in lines]), right=lambda step: {})
    found = {c.key: c.value for c in Answers.columns(results)}
    assert (found["retention_ES"], found["retention_PS"], found["retention_NS"]) == pytest.approx((10.0, 50.0, 25.0))
    assert found["retention_S"] == pytest.approx(3 / (1 / 10 + 1 / 50 + 1 / 25))
