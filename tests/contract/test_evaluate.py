"""A finished run is asked something new: the same numbers as if it had been asked while it ran, and no edit is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from helpers.runs import CommandLine, KilledError, fuse, go, made_until, override, prepared

import edit_robust
from edit_robust.config.asking import asking
from edit_robust.editors.language.rome import Rome
from edit_robust.figures.frame import RunData
from edit_robust.messages import Ui
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.report.grid import columns_of
from edit_robust.revisit import Visited, revisit
from edit_robust.runs.reader import Run

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]
LATER = "measure=[answers,forgetting,perplexity]"


def sorted_records(found: pd.DataFrame) -> pd.DataFrame:
    keys = [c for c in found.columns if c not in ("value", "n")]
    return found.sort_values(keys).reset_index(drop=True)


def ask(run: Run, model: CausalLM, *overrides: str) -> Run:
    """Ask a run on a model that is loaded already."""
    made = asking(run, ["figures=false", *overrides], run.path.parents[1])
    return revisit(replace(made, model=lambda: model), Ui(quiet=True))


@pytest.fixture
def finished(quick: Quick, tiny_model: TinyModel) -> Callable[..., Run]:
    def make(editor: str = "rome", *more: str) -> Run:
        given = override(quick(editor), "task.n_requests=5", "measure=[edits,drift]", "layer.index=0", *more)
        return go(prepared(given, tiny_model("gpt2")))

    return make


def test_asked_later_is_asked_on_the_way(
    finished: Callable[..., Run], tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, on_the_way = finished(), finished("rome", "measure=[answers,forgetting,perplexity,edits,drift]")
    before = (run.path / "records.jsonl").read_bytes()
    monkeypatch.setattr(Rome, "edit", lambda *a: pytest.fail("an edit was made"))
    found = ask(run, tiny_model("gpt2"), LATER)
    assert found.complete and (run.path / "records.jsonl").read_bytes() == before
    again, whole = sorted_records(Run(run.path).records), sorted_records(on_the_way.records)
    pd.testing.assert_frame_equal(again.drop(columns="run"), whole.drop(columns="run"))
    for step in range(6):
        theirs, mine = on_the_way.outcomes(step), Run(run.path).outcomes(step)
        assert theirs.keys() == mine.keys()
        assert all((a == b).all() for s in mine for a, b in zip(mine[s][:1], theirs[s][:1], strict=True))
    assert len(Run(run.path).examples_of("answers")) == len(on_the_way.examples_of("answers")) > 0


def test_summary_and_tables_see_what_was_found(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    run = finished()
    assert "perplexity" not in run.summary
    found = ask(run, tiny_model("gpt2"), "measure=[perplexity]", "steps=checks")
    assert [p["step"] for p in found.points] == [0, 2, 4, 5], "where the walk looked back"
    run = Run(run.path)
    assert run.summary["perplexity"] == found.summary["perplexity"] > 0
    assert run.summary["drift"] > 0 and "seconds_edit" in run.summary, "its own numbers stay"
    assert any(c.key == "perplexity" and c.label for c in columns_of(RunData.of(run)))


def test_a_kill_costs_one_point(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    run, model = finished(), tiny_model("gpt2")
    with fuse(14), pytest.raises(KilledError):
        ask(run, model, LATER)
    assert model.position == model.base
    (folder,) = (run.path / "evaluations").iterdir()
    asked = len(Run(folder).points)
    assert 0 < asked < 6
    assert Run(run.path).evaluations == [], "what is not complete is not read"
    found = ask(run, model, LATER)
    assert found.path == folder and len(found.points) == 6
    pieced = (folder / "records.jsonl").read_bytes()
    anew = ask(run, model, LATER, "force=true")
    assert anew.path == folder and (folder / "records.jsonl").read_bytes() == pieced
    assert [one.path for one in Run(run.path).evaluations] == [folder], "the one set aside is not read"


@pytest.mark.parametrize("steps", ["last", "5", "[0,5]"])
def test_of_whole_matrices_the_end_alone_is_kept(
    finished: Callable[..., Run], tiny_model: TinyModel, steps: str
) -> None:
    run = finished("ft", "measure=[answers,perplexity]")
    own = run.records[(run.records.step == 5) & (run.records.metric == "perplexity")].value
    found = ask(run, tiny_model("gpt2"), "measure=[perplexity]", "text_tokens=100", f"steps={steps}")
    assert found.records[found.records.step == 5].value.tolist() == own.tolist()
    with pytest.raises(edit_robust.UserError, match=r"kept no change of edit 1.*steps=last"):
        ask(run, tiny_model("gpt2"), "measure=[perplexity]")


@pytest.mark.parametrize("trajectory", ["single", "batch", "interpolate"])
def test_every_walk_can_be_asked(finished: Callable[..., Run], tiny_model: TinyModel, trajectory: str) -> None:
    more = ["trajectory.batch_size=1"] if trajectory == "batch" else []
    run = finished("rome", f"trajectory={trajectory}", "measure=[answers,perplexity]", *more)
    found = ask(run, tiny_model("gpt2"), "measure=[answers,perplexity]")
    pd.testing.assert_frame_equal(sorted_records(found.records), sorted_records(run.records))


def test_some_steps_are_asked_everything(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    run = finished()
    found = ask(run, tiny_model("gpt2"), LATER, "steps=[3]").records
    assert set(found.scope) == {"at-edit", "retention", "model"}
    assert set(found[found.scope == "retention"].probe) >= {"edit", "paraphrase", "neighbourhood"}
    assert Visited.of(run, "every-2").steps == (0, 2, 4, 5)


def test_what_cannot_be_asked(finished: Callable[..., Run], tiny_model: TinyModel, say: CommandLine) -> None:
    run, model = finished(), tiny_model("gpt2")
    for words, overrides in {
        "say what to ask": (),
        "evaluate has no option 'editor'": ("editor=memit", LATER),
        "has no step 77: it measured 0 to 5; the nearest is 5": (LATER, "steps=77"),
        "steps=latest must be points, checks, last": (LATER, "steps=latest"),
        "measure=image-answers needs a model with logits_along": ("measure=[image-answers]",),
        "measure=forgetting needs measure answers before it": ("measure=[forgetting]",),
        "there is no measure 'perplexities'": ("measure=[perplexities]",),
    }.items():
        with pytest.raises(edit_robust.UserError, match=words) as error:
            ask(run, model, *overrides)
        assert "\n" not in str(error.value)
    said = say("evaluate", run.id, "steps=last", "--outputs", str(run.path.parents[1]))
    assert said.code == 2 and "say what to ask" in said.line


def test_an_unfinished_run_and_another_model(
    quick: Quick, tiny_model: TinyModel, finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(override(quick("rome"), "layer.index=0"), tiny_model("gpt2"))
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        made_until(Rome, 2, patch)
        go(made)
    with pytest.raises(edit_robust.UserError, match="is not complete"):
        ask(Run(made.outputs / "runs" / made.run_id), tiny_model("gpt2"), LATER)
    with pytest.raises(edit_robust.UserError, match="this is not the model that"):
        ask(finished(), tiny_model("gptj"), LATER)


def test_a_change_that_is_gone(finished: Callable[..., Run], tiny_model: TinyModel) -> None:
    run = finished()
    (run.path / "deltas" / "000003.safetensors").unlink()
    with pytest.raises(edit_robust.UserError, match="kept no change of edit 3"):
        ask(run, tiny_model("gpt2"), LATER)
