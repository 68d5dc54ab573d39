"""Whole runs on tiny checkpoints: what they write, that the weights come back, and what their names mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from filelock import FileLock
from helpers.runs import CommandLine, options, override, prepared, records
from helpers.runs import go as execute_now

import edit_robust
import edit_robust.runs.folder
import edit_robust.runs.reader
from edit_robust.config.check import resolved
from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.core import Delta, Record
from edit_robust.core.data import SCOPES
from edit_robust.exports.exporting import export
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run

Quick = Callable[..., list[str]]
Checkpoint = Callable[[str], Path]
TinyModel = Callable[[str], CausalLM]


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A sequential ROME run over four facts, and its options."""
    given = options(checkpoint("gpt2"), facts, tmp_path_factory.mktemp("runs") / "outputs")
    return edit_robust.run(given), given


def test_records_are_tidy(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    table = run.records
    assert list(table.columns) == list(Record.__dataclass_fields__)
    assert set(table.scope) == set(SCOPES)
    assert set(table.run) == {run.id} and set(table["shift"]) == {"none"}
    assert list(table.groupby("step").n_edits.first()) == [0, 1, 2, 3, 4]
    keys = ["step", "scope", "probe", "metric", "layer"]
    assert not table.duplicated(keys).any()
    assert (table.n > 0).all() and table.value.notna().all()
    per_step = {s: set(t.scope) for s, t in table.groupby("step")}
    assert per_step[0] == {"unedited", "model"} and per_step[1] == {"at-edit"}
    assert per_step[2] == {"at-edit", "retention", "model"}
    assert per_step[4] == {"at-edit", "retention", "final", "model"}
    for line in (run.path / "records.jsonl").read_text().splitlines():
        assert list(json.loads(line)) == list(Record.__dataclass_fields__)


def test_summary_says_what_the_table_shows(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    s = run.summary
    wanted = {"ES", "PS", "NS", "S", "ES_acc", "ES_magnitude", "final_ES", "retention_ES", "unedited_ES", "drift"}
    wanted |= {"perplexity", "unedited_perplexity", "mean_division_factor", "mean_delta_norm", "n_edits", "n_refused"}
    wanted |= {"seconds_load", "seconds_prepare", "seconds_edit", "seconds_evaluate", "peak_memory_mb_process"}
    assert wanted <= set(s)
    assert any(k in s for k in ("forgotten_pct", "forgotten_es_pct"))
    assert all(v is None or isinstance(v, int | float) for v in s.values())
    assert (s["n_requests"], s["n_edits"], s["n_refused"]) == (4, 4, 0)
    table = run.records
    at_edit = table[(table.scope == "at-edit") & (table.probe == "edit") & (table.metric == "success")]
    assert s["ES"] == pytest.approx(100 * at_edit.value.mean())
    assert s["seconds_edit"] > 0 and s["peak_memory_mb_process"] > 50


def test_status_says_on_what_it_ran(finished: tuple[Run, list[str]]) -> None:
    status = finished[0].status
    assert (status["status"], status["resumed"], status["points"], status["device"]) == ("complete", 0, 5, "cpu")
    assert {"torch", "transformers", "edit-robust", "python"} <= set(status["versions"])
    assert status["seed"] == 0 and status["dtype"] == "torch.float32" and len(status["layers"]) == 1
    assert {"load", "prepare", "evaluate", "edit"} <= set(status["seconds"]) and "process" in status["peak_memory_mb"]


def test_outcomes_say_what_every_question_got(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    examples = run.examples
    assert set(examples.probe) == {"edit", "paraphrase", "neighbourhood"} and examples.id.is_unique
    table = run.records
    for step, scope in ((0, "unedited"), (3, "at-edit"), (4, "retention"), (4, "final")):
        index, logp, hits = run.outcomes(step)[scope]
        assert logp.shape == hits.shape == (len(index), 2) and logp.dtype == np.float32
        rows = examples.iloc[index]
        right = logp[np.arange(len(index)), rows.target] > logp[np.arange(len(index)), 1 - rows.target]
        for probe, part in rows.assign(right=right).groupby("probe"):
            here = table[(table.step == step) & (table.scope == scope) & (table.probe == probe)]
            assert here[here.metric == "success"].value.item() == pytest.approx(
                part.groupby("group").right.mean().mean()
            )


def test_no_pickles(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    assert {p.suffix for p in run.path.rglob("*") if p.is_file()} <= {
        ".yaml",
        ".json",
        ".jsonl",
        ".npz",
        ".safetensors",
        ".lock",
        "",
    }


@pytest.mark.slow
@pytest.mark.parametrize("editor, more", [("rome", ()), ("ft", ()), ("memit", ("trajectory.batch_size=2",))])
def test_a_run_gives_the_edited_weights_back(
    editor: str, more: tuple[str, ...], quick: Quick, tiny_model: TinyModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Replayed to the bit; as one change to rounding; exported to the bit, and transformers says what was measured."""
    model = tiny_model("gpt2")
    where = model.position
    made = prepared(quick(editor, *more, *(["editor.num_steps=25", "editor.lr=0.02"] if editor == "ft" else [])), model)
    seen: dict[str, torch.Tensor] = {}
    names = model.parameter_names(model.layers)
    with pytest.MonkeyPatch.context() as patch:
        measure = edit_robust.runs.folder.RunFolder.write_point

        def keep(self: Any, step: int, *args: Any, **kwargs: Any) -> None:
            seen.update(model.snapshot(names).values)
            measure(self, step, *args, **kwargs)

        patch.setattr(edit_robust.runs.folder.RunFolder, "write_point", keep)
        run = execute_now(made)
    assert model.position == where

    with model.held(model.parameter_names(model.layers)) as before:
        run.replay(model)
        for name in names:
            assert torch.equal(model.param(name), seen[name]), name
        exact = model.difference(before)
        assert exact.norm() > 0
        model.restore(before)
        model.add(run.delta())
        off = model.difference(before).terms
        for name, term in exact.terms.items():
            assert (off[name].dense() - term.dense()).abs().max() < 1e-5
    assert model.position == where

    folder = export(run, tmp_path / "exported").folder
    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for name in names:
        assert torch.equal(net.get_parameter(name), seen[name])
    _agrees(net, transformers.AutoTokenizer.from_pretrained(folder), run)


def _agrees(net: Any, tokenizer: Any, run: Run) -> None:
    """The exported model's own argmax after the edit prompts is what the run's last outcomes say."""
    index, _, hits = run.outcomes(run.points[-1]["step"])["final"]
    rows = run.examples.iloc[index]
    asked = 0
    for row, hit in zip(rows.itertuples(), hits, strict=True):
        if row.probe != "edit":
            continue
        prompt, whole = tokenizer(row.x).input_ids, tokenizer(row.x + row.choices[0]).input_ids
        assert whole[: len(prompt)] == prompt
        with torch.no_grad():
            said = net(torch.tensor([whole[:-1]])).logits[0].argmax(-1)[len(prompt) - 1 :]
        share = (said == torch.tensor(whole[len(prompt) :])).float().mean().item()
        assert share == pytest.approx(float(hit[0]))
        asked += 1
    assert asked == 4


def test_independent_edits_have_no_common_change(quick: Quick, tiny_model: TinyModel, tmp_path: Path) -> None:
    run = execute_now(prepared(override(quick(), "trajectory=single"), tiny_model("gpt2")))
    assert len(run.deltas()) == 4
    with pytest.raises(edit_robust.UserError, match="4 independent edits"):
        run.delta()


def test_export_refuses_a_full_folder_and_another_model(
    say: CommandLine, finished: tuple[Run, list[str]], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    run, _ = finished
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    said = say("export", str(run.path), "full")
    assert said.code == 2 and "not empty" in said.line
    copy = tmp_path / "runs" / run.id
    copy.mkdir(parents=True)
    for name in ("config.yaml", "deltas"):
        (copy / name).symlink_to(run.path / name)
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").write_text(
        (run.path / "config.yaml").read_text().replace(str(checkpoint("gpt2")), str(checkpoint("gptj")))
    )
    said = say("export", str(copy), "new")
    assert said.code == 2 and "was made for another model" in said.line


def test_a_complete_run_comes_back_at_once(finished: tuple[Run, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    import edit_robust.models.language.causal_lm as lm

    run, given = finished
    monkeypatch.setattr(lm, "load_pretrained", None)
    again = edit_robust.run([*override(given, "tracker=wandb", "figures=true")])
    assert again.path == run.path and again.summary == run.summary


def test_force_sets_the_old_run_aside(quick: Quick, tiny_model: TinyModel) -> None:
    model = tiny_model("gpt2")
    first = execute_now(prepared(quick(), model))
    old = records(first)
    second = execute_now(prepared(quick("rome", "force=true"), model))
    assert second.path == first.path and records(second) == old
    aside = first.path.with_name(f"{first.id}~1")
    assert (aside / "records.jsonl").read_bytes() == old
    assert [r.id for r in edit_robust.runs.reader.list_runs(first.path.parent.parent)] == [first.id]


def test_two_processes_do_not_share_a_run(say: CommandLine, quick: Quick) -> None:
    given = quick()
    path = Path("outputs") / "runs" / run_id(resolved(compose(given)))
    path.mkdir(parents=True)
    with FileLock(path / ".lock"):  # a lock of another owner, as another process holds it
        for more in ("force=false", "force=true"):
            said = say("run", *given, more)
            assert said.code == 2 and "is being run by another process" in said.line
    assert path.is_dir()


@pytest.mark.slow
def test_a_run_is_named_by_what_can_change_its_results(quick: Quick, facts: Path, tmp_path: Path) -> None:
    def name(*more: str) -> str:
        return run_id(resolved(compose(override(quick(), *more))))

    base = name()
    for same in ("tracker=wandb", "figures=true", "paths.outputs=elsewhere", "force=true", "model.cache_gb=1"):
        assert name(same) == base, same
    different = ["seed=1", "editor.v_lr=0.4", "task.n_requests=5", "task.order=1", "layer.index=0", "text_tokens=50"]
    different += ["trajectory.every=3", "model.dtype=float16", "editor=p-rome", "trajectory=single"]
    names = [name(d) for d in different]
    assert len({base, *names}) == 1 + len(different)

    moved = tmp_path / "moved.json"
    moved.write_bytes(facts.read_bytes())
    assert name(f"task.path={moved}") == base
    moved.write_bytes(facts.read_bytes() + b"\n")
    assert name(f"task.path={moved}") != base


def test_the_same_run_twice_is_the_same_to_the_byte(
    finished: tuple[Run, list[str]], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """In a fresh outputs folder, with the model loaded anew."""
    run, given = finished
    again = edit_robust.run(override(given, f"paths.outputs={tmp_path / 'o'}"))
    assert again.id == run.id and records(again) == records(run)
    for a, b in zip(sorted((run.path / "deltas").iterdir()), sorted((again.path / "deltas").iterdir()), strict=True):
        assert (Delta.load(a).digest(), Delta.load(a).info) == (Delta.load(b).digest(), Delta.load(b).info)
