"""Which edit broke the model: planted ones are named wherever they stand, and none where nothing broke."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.planted import planted_conf
from helpers.runs import CommandLine, go

from edit_robust.autopsy import ACCUMULATION, DISABLING, autopsy
from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import UserError
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.report.collapse import autopsy_lines, collapse_lines
from edit_robust.runner import Experiment
from edit_robust.runs.reader import Run

N = 20


@pytest.fixture(scope="module")
def fact_gpt() -> CausalLM:
    return CausalLM("builtin:fact-gpt", name="fact-gpt", device="cpu")


def walk(tmp_path: Path, model: CausalLM, *more: str) -> Run:
    """A run of the planted editor in the fact world."""
    options = ["editor=planted", f"task.n_requests={N}", "trajectory.every=5", "text_tokens=400", "device=cpu"]
    options += ["tracker=none", "figures=false", f"paths.outputs={tmp_path / 'outputs'}", *more]
    made = experiment(compose(options, planted_conf(tmp_path / "conf")))
    return go(Experiment(**{**made.__dict__, "model": lambda: model}))


#: The first and the last, and some at every distance from the check before them; 8 and 13, in tests below, make ten.
QUICK, SLOW, THOROUGH = (10,), (20,), (1, 2, 5, 6, 16, 19)


@pytest.mark.parametrize(
    "at",
    [
        *QUICK,
        *(pytest.param(at, marks=pytest.mark.slow) for at in SLOW),
        *(pytest.param(at, marks=pytest.mark.thorough) for at in THOROUGH),
    ],
)
def test_a_planted_disabling_edit_is_named_wherever_it_stands(at: int, tmp_path: Path, fact_gpt: CausalLM) -> None:
    named(walk(tmp_path, fact_gpt, f"editor.at={at}"), at, fact_gpt)


def named(run: Run, at: int, fact_gpt: CausalLM) -> None:
    """Edit `at` of the run is suspected by its records, and named by its autopsy."""
    id_ = fact_gpt_request(run, at)
    suspected = run.summary
    assert (suspected["inflection_edit"], suspected["culprit_edit"], suspected["culprit_id"]) == (at, at, id_)
    assert suspected["culprit_kind"] is None, "that takes a replay"
    assert suspected["inflection_after"] < at <= suspected["inflection_until"]
    position = fact_gpt.position
    found = autopsy(run, model=fact_gpt)
    assert fact_gpt.position == position, "the model is left as it was found"
    assert found.kind == DISABLING and found.suspect is not None and found.suspect.edit == at
    assert found.before is not None and found.after is not None
    assert (found.after.perplexity or 0) > 2 * (found.before.perplexity or 0)
    assert (found.alone.perplexity or 0) > 2 * (found.unedited.perplexity or 0)
    assert found.distance == pytest.approx(1e5 * (found.usual or 0), rel=1e-3)
    known = run.summary
    assert (known["culprit_edit"], known["culprit_id"], known["culprit_kind"]) == (at, id_, DISABLING)
    assert {c.key: c.value for c in run.columns}["culprit_kind"] == DISABLING
    assert run.autopsy["culprit_edit"] == at and run.autopsy["alone"]["perplexity"] == found.alone.perplexity


def fact_gpt_request(run: Run, at: int) -> str:
    """The id of the at-th request."""
    rows = run.records[(run.records.scope == "at-edit") & (run.records.metric == "refused") & (run.records.step == at)]
    return str(rows.request.iloc[0])


@pytest.mark.thorough
def test_the_last_of_many_is_told_from_a_disabling_edit(tmp_path: Path, fact_gpt: CausalLM) -> None:
    """An edit that is nothing in the unedited model, and ends the one that carries fourteen others."""
    run = walk(tmp_path, fact_gpt, "editor.at=14", "editor.straw=true")
    assert run.summary["culprit_edit"] == 14
    found = autopsy(run, model=fact_gpt)
    assert found.kind == ACCUMULATION and found.suspect is not None and found.suspect.edit == 14
    assert found.alone.perplexity == pytest.approx(found.unedited.perplexity or 0, rel=1e-3)
    assert run.summary["culprit_kind"] == ACCUMULATION and not found.prevented
    assert "accumulation" in autopsy_lines(found.to_dict())[0]
    assert (
        "harmless" in collapse_lines(run.summary, run.config)[0] and len(collapse_lines(run.summary, run.config)) == 1
    )


@pytest.mark.slow
def test_where_nothing_breaks_no_edit_is_named(tmp_path: Path, fact_gpt: CausalLM) -> None:
    run = walk(tmp_path, fact_gpt)
    keys = ("inflection_edit", "culprit_edit", "culprit_id", "culprit_kind")
    assert [run.summary[key] for key in keys] == [None] * 4
    found = autopsy(run)  # loads no model
    assert found.kind is None and found.suspect is None and run.summary["culprit_kind"] is None
    assert autopsy_lines(run.autopsy)[0].startswith("none") and collapse_lines(run.summary, run.config) == []


@pytest.mark.slow
def test_the_guard_that_is_named_prevents_the_break(tmp_path: Path, fact_gpt: CausalLM) -> None:
    broken = walk(tmp_path, fact_gpt, "editor.at=13")
    lines = collapse_lines(broken.summary, broken.config, broken.examples, "edit-robust run editor=planted", broken.id)
    assert "the suspect is edit 13" in lines[0] and "‖ΔW‖ / ‖W‖" in lines[0]
    assert "`edit-robust run editor=planted editor.guard=norm`" in lines[1] and "1 of these 20 edits" in lines[1]
    assert "autopsy" in lines[2] and broken.id in lines[2]
    named(broken, 13, fact_gpt)
    kept = walk(tmp_path, fact_gpt, "editor.at=13", "editor.guard=norm")
    assert kept.summary["inflection_edit"] is None and kept.summary["n_guarded"] == kept.summary["n_refused"] == 1
    assert kept.summary["perplexity"] < 1.1 * kept.summary["unedited_perplexity"]
    assert kept.summary["guard_largest"] > 1e3
    told = kept.records[(kept.records.metric == "guarded") & (kept.records.value > 0)]
    assert list(told.step) == [13] and kept.deltas()[12].info["refused"].startswith("guard: relative_norm")
    found = autopsy(kept, model=fact_gpt)
    assert found.kind is None and [(one.edit, one.sign) for one in found.saved] == [(13, "relative_norm")]
    (saved,) = found.saved
    assert (saved.after.perplexity or 0) > 2 * (saved.before.perplexity or 0)
    assert "refused by the guard, edit 13" in autopsy_lines(kept.autopsy)[1]


def test_a_guard_that_refuses_everything_says_so_and_the_run_has_its_records(
    tmp_path: Path, fact_gpt: CausalLM, say: CommandLine
) -> None:
    run = walk(tmp_path, fact_gpt, "editor.guard={sign:relative_norm,above:1e-9}", "task.n_requests=6")
    assert run.complete and run.summary["n_guarded"] == run.summary["n_edits"] == 6
    assert run.summary["perplexity"] == run.summary["unedited_perplexity"] and run.summary["drift"] == 0
    (line,) = collapse_lines(run.summary, run.config)
    assert line.startswith("The guard refused all 6 edits (relative_norm above 1e-09)")


def test_what_cannot_be_examined(tmp_path: Path, fact_gpt: CausalLM) -> None:
    run = walk(tmp_path, fact_gpt, "trajectory=single", "~trajectory.every", "task.n_requests=4")
    with pytest.raises(UserError, match="needs trajectory=sequential"):
        autopsy(run)
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps({**status, "status": "failed"}))
    with pytest.raises(UserError, match="is not complete"):
        autopsy(Run(run.path))
    assert "inflection_edit" not in run.summary, "edits that do not pile up break nothing together"


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, *(pytest.param(k, marks=pytest.mark.thorough) for k in range(2, 11))])
def test_r_rome_breaks_in_none_of_ten_orders(order: int, tmp_path: Path, fact_gpt: CausalLM) -> None:
    """On the subjects of one token alone, which are the ones that disable ROME; --thorough takes all ten orders, four
    minutes."""
    hardest = ["editor=r-rome", "task.single_token=only", "task.n_requests=up-to-25", f"task.order={order}"]
    options = [*hardest, "trajectory.every=5", "text_tokens=800", "device=cpu", "tracker=none", "figures=false"]
    made = experiment(compose([*options, f"paths.outputs={tmp_path / 'outputs'}"]))
    run = go(Experiment(**{**made.__dict__, "model": lambda: fact_gpt}))
    found = autopsy(run)
    assert found.kind is None and run.summary["inflection_edit"] is None and run.summary["culprit_id"] is None


@pytest.mark.slow
def test_the_command(tmp_path: Path, fact_gpt: CausalLM, say: CommandLine) -> None:
    runs = [walk(tmp_path, fact_gpt, "editor.at=8", f"task.order={order}") for order in (0, 1)]
    said = say("autopsy", "--outputs", str(tmp_path / "outputs"))
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == runs[0].id and lines[1].startswith("  disabling edit: edit 8 of 20")
    assert lines[-1].endswith("2 of 2 walks broke; median edit 8 [95 % over orders: 8 to 8]")
    assert all(run.summary["culprit_kind"] == DISABLING for run in runs)
    assert say("autopsy", "nothing", "--outputs", str(tmp_path / "outputs")).code == 2
