"""The retention matrix: the same from the walk, from its answers, and from the kept changes of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.runs import go, override, prepared

import edit_robust
from edit_robust.config.asking import asking
from edit_robust.editors.base import Edit
from edit_robust.editors.language.rome import Rome
from edit_robust.evaluate.retention_matrix import HOWS, has_matrix, matrix_of
from edit_robust.messages import Ui
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.revisit import revisit
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]
OPTIONS = (
    "task.n_requests=6",
    "layer.index=0",
    "editor.v_num_grad_steps=20",
    "editor.clamp_norm_factor=30",
    "text_tokens=100",
)


@pytest.fixture
def finished(quick: Quick, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs whose edits are six times too large, so that they disturb each other."""
    edit = Rome.edit

    def strong(self: Rome, *args: Any) -> Edit:
        made = edit(self, *args)
        return replace(made, delta=made.delta.scale(6.0))

    monkeypatch.setattr(Rome, "edit", strong)
    return lambda *more: go(prepared(override(quick("rome"), *OPTIONS, *more), tiny_model("gpt2")))


def ask(run: Run, model: CausalLM, *overrides: str) -> Run:
    made = asking(run, ["figures=false", *overrides], run.path.parents[1])
    revisit(replace(made, model=lambda: model), Ui(quiet=True))
    return Run(run.path)


def test_three_ways_to_one_matrix(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    answered = finished("measure=[answers,forgetting]")
    along = finished("measure=[edits,retention]")
    later = ask(finished("measure=[edits]"), tiny_model("gpt2"), "measure=[retention]")
    for how in HOWS:
        found = [matrix_of(run, how) for run in (answered, along, later)]
        assert all(m is not None for m in found)
        first = found[0]
        assert first is not None and first.seen.tolist() == [2, 4, 6]
        assert np.isnan(first.right[2:, 0]).all() and not np.isnan(first.right[:2, 0]).any()
        for other in found[1:]:
            assert other is not None
            np.testing.assert_array_equal(other.right, first.right)
            np.testing.assert_array_equal(other.taught, first.taught)
            np.testing.assert_array_equal(other.made, first.made)
    assert answered.summary["forgotten_es_pct"] > 0, "these edits disturb each other"
    metrics = [
        m for suffix in ("", "_es") for m in (f"forgotten{suffix}", f"forgotten{suffix}_sticky", f"recovered{suffix}")
    ]
    for metric in metrics:
        wanted = answered.records[answered.records.metric == metric]
        for run in (along, later):
            assert run.records[run.records.metric == metric].value.tolist() == wanted.value.tolist(), metric
            assert run.summary.get(f"{metric}_pct") == answered.summary.get(f"{metric}_pct")


def test_what_answers_asked_is_not_asked_again(finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from edit_robust.models.language.scorer import Scorer

    asked: list[int] = []
    score = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, *a: asked.append(1) or score(self, *a))
    run = finished("measure=[answers]")
    alone = len(asked)
    asked.clear()
    both = finished("measure=[answers,forgetting,retention]")
    assert len(asked) == alone
    told = both.records[both.records.metric == "forgotten"]
    assert not told.duplicated("step").any(), "the shares stand there once"
    found, wanted = matrix_of(both), matrix_of(run)
    assert found is not None and wanted is not None
    np.testing.assert_array_equal(found.right, wanted.right)


def test_checkpoints_of_its_own(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    """After every edit, where the walk looked back every other one."""
    run = finished("measure=[edits]")
    run = ask(run, tiny_model("gpt2"), "measure=[retention]", "measure.retention.every=1")
    found = matrix_of(run)
    assert found is not None and found.seen.tolist() == [1, 2, 3, 4, 5, 6]
    assert (found.right[np.arange(6), np.arange(6)] == found.taught).all(), "the check right after an edit"
    assert "half_life_es" in run.summary and has_matrix(run)


def test_goes_on_after_a_kill(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    """What it knows of earlier checkpoints is read back: the sticky count is that of an uninterrupted evaluation."""
    run = ask(finished("measure=[edits]"), tiny_model("gpt2"), "measure=[retention]")
    (evaluation,) = run.evaluations
    whole = (evaluation.path / "records.jsonl").read_bytes()
    lines = (evaluation.path / "points.jsonl").read_text().splitlines(keepends=True)
    (evaluation.path / "points.jsonl").write_text("".join(lines[:4]))
    (evaluation.path / "status.json").write_text("{}")
    ask(Run(run.path), tiny_model("gpt2"), "measure=[retention]")
    assert (evaluation.path / "records.jsonl").read_bytes() == whole


def test_a_walk_without_past_edits(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    run = finished("trajectory=single", "measure=[edits]")
    with pytest.raises(edit_robust.UserError, match=r"retention found nothing at these points .* by single"):
        ask(run, tiny_model("gpt2"), "measure=[retention]")
    assert matrix_of(run) is None and not has_matrix(run)
    with pytest.raises(edit_robust.UserError, match="every=0 must be at least 1"):
        asking(run, ["measure=[retention]", "measure.retention.every=0"], run.path.parents[1])
