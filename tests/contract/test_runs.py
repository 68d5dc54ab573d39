"""Whole runs on tiny checkpoints: what they write, what their names mean, and that every road through them is open."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from filelock import FileLock
from helpers.runs import QUICK, CommandLine, options, override, prepared, records
from helpers.runs import go as execute_now
from helpers.tiny import tiny_facts, write_json

import edit_robust
import edit_robust.runs.folder
import edit_robust.runs.reader
from edit_robust.config import launch
from edit_robust.config.check import resolved
from edit_robust.config.compose import compose
from edit_robust.config.identity import run_id
from edit_robust.core import Delta, Record
from edit_robust.core.data import SCOPES
from edit_robust.export import export_model
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run

SHARED = Path(__file__).parents[3] / "shared" / "data"
Quick = Callable[..., list[str]]
Checkpoint = Callable[[str], Path]
TinyModel = Callable[[str], CausalLM]

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the repository")


# -- what a run writes ---------------------------------------------------------------------------------------------


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


# -- weights -------------------------------------------------------------------------------------------------------


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
        measure = edit_robust.runs.folder.RunStore.write_point

        def keep(self: Any, step: int, *args: Any, **kwargs: Any) -> None:
            seen.update(model.snapshot(names).values)
            measure(self, step, *args, **kwargs)

        patch.setattr(edit_robust.runs.folder.RunStore, "write_point", keep)
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

    folder = export_model(run, tmp_path / "exported")
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
    assert said.code == 2 and "not the model" in said.line


# -- the same run, another run -------------------------------------------------------------------------------------


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


# -- every road ----------------------------------------------------------------------------------------------------


WALKS = [("sequential", e) for e in sorted(QUICK)]
WALKS += [(t, e) for t in ("single", "batch", "interpolate") for e in ("rome", "memit", "ft")]


@pytest.mark.parametrize("trajectory, editor", WALKS)
def test_editors_walk(trajectory: str, editor: str, quick: Quick, tiny_model: TinyModel) -> None:
    given = override(quick(editor), f"trajectory={trajectory}", "task.n_requests=3")
    if trajectory == "batch" and editor.endswith("rome"):
        given.append("trajectory.batch_size=1")
    if trajectory == "interpolate":
        given.append("trajectory.alphas=[0,0.5,1]")
    model = tiny_model("gpt2")
    where = model.position
    run = execute_now(prepared(given, model))
    assert model.position == where and run.complete
    assert {"ES", "PS", "NS", "S", "drift", "unedited_ES"} <= set(run.summary)
    assert run.summary["n_edits"] == 3
    if trajectory == "interpolate":
        table = run.records
        for metric in ("success", "accuracy", "magnitude"):  # alpha 0 is the identity
            rows = table[(table.probe == "edit") & (table.metric == metric)]
            assert rows[rows.scope == "unedited"].value.item() == rows[rows.alpha == 0].value.item()
        assert set(table.alpha) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize("model, kind", [("gptj", "gptj"), ("gpt2-xl", "gpt2"), ("hf", "llama")])
@pytest.mark.parametrize("editor", ["rome", "memit"])
@needs_shared
def test_the_papers_commands_run_on_tiny_checkpoints(
    say: CommandLine, editor: str, model: str, kind: str, checkpoint: Checkpoint
) -> None:
    """As the issue writes them; only shorter, and with layers that these checkpoints have."""
    given = [f"editor={editor}", f"model={model}", f"model.path={checkpoint(kind)}", "task=counterfact"]
    given += [f"task.path={SHARED / 'counterfact' / 'counterfact_120.json'}", "layer.index=1", "task.n_requests=2"]
    given += [*QUICK[editor], "editor.mom2_n_samples=8", "figures=false", "tracker=none", "text_tokens=100"]
    said = say("run", *given)
    assert said.code == 0, said.err
    (run,) = edit_robust.runs.reader.list_runs(Path("outputs"))
    assert run.complete and run.summary["n_edits"] == 2
    assert "outputs/runs/" in said.out


@needs_shared
def test_real_trained_weights(say: CommandLine) -> None:
    path = SHARED / "models" / "stories260K-hf"
    given = ["editor=rome", "model=hf", f"model.path={path}", "task=counterfact", "task.n_requests=2"]
    given += [f"task.path={SHARED / 'counterfact' / 'counterfact_120.json'}", "tracker=none", "figures=false"]
    said = say("run", *given, "editor.mom2_n_samples=20")
    assert said.code == 0, said.err
    (run,) = edit_robust.runs.reader.list_runs(Path("outputs"))
    assert run.summary["mean_edit_loss"] < 8 and run.summary["n_refused"] == 0


def test_a_sweep_and_its_figure(say: CommandLine, checkpoint: Checkpoint, facts: Path) -> None:
    given = [o for o in options(checkpoint("gpt2"), facts, Path("outputs"), "ft") if "num_steps" not in o]
    given = [o for o in given if not o.startswith(("editor=", "figures="))]
    said = say("run", "-m", *given, "editor=rome,memit,ft", "layer.index=0,1", "task.n_requests=2", "figures=false")
    assert said.code == 0, said.err
    runs = edit_robust.runs.reader.list_runs(Path("outputs"))
    assert len(runs) == 6 and all(r.complete for r in runs)
    said = say("figure", "--only", "sweep")  # drawing all of them takes longer than the sweep
    assert said.code == 0, said.err
    drawn = [Path(line) for line in said.out.split()]
    assert {p.suffix for p in drawn} == {".png", ".pdf"} and all(p.stat().st_size > 1000 for p in drawn)
    assert all(r.id in (table := say("ls", "runs").out) or r.id[:20] in table for r in runs)
    assert say("report", runs[0].id).code == 0 and Path("outputs/report.html").stat().st_size > 1000


def test_a_sweep_in_parallel_processes(say: CommandLine, checkpoint: Checkpoint, facts: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    given = options(checkpoint("gpt2"), facts, Path("outputs"), "ft", "layer.index=0,9", "hydra/launcher=joblib")
    said = say("run", "-m", *given, "hydra.launcher.n_jobs=1", "task.n_requests=2")
    statuses = {r.config["layer"]["index"]: r.status for r in edit_robust.runs.reader.list_runs(Path("outputs"))}
    assert said.code == 2 and "layer.index=9 does not exist" in said.err
    assert statuses[0]["status"] == "complete" and statuses[9]["status"] == "failed"


@needs_shared
@pytest.mark.parametrize("target", ["answers", "alt"])
def test_zsre(target: str, quick: Quick, tiny_model: TinyModel) -> None:
    path = SHARED / "zsre" / "zsre_mend_eval_200.json"
    given = override(quick(), "task=zsre", f"task.path={path}", f"+task.target={target}".lstrip("+"))
    run = execute_now(prepared(given, tiny_model("gpt2")))
    assert {"ES_token_acc", "PS_token_acc", "NS_token_acc", "S"} <= set(run.summary)
    assert "ES" not in run.summary


FACTS = [
    {"prompt": "{} was born in", "subject": "Ada Moreth", "target_new": "Rome"},
    {
        "prompt": "Greta Kestrin works as a",
        "subject": "Greta Kestrin",
        "target_new": "lawyer",
        "paraphrases": ["By trade {} is a"],
    },
    {
        "prompt": "{} plays the",
        "subject": "Hugo Fenwold",
        "target_new": "flute",
        "neighbours": [{"prompt": "Ada Moreth plays the", "answer": "piano"}],
    },
]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_own_facts(kind: str, quick: Quick, tiny_model: TinyModel, tmp_path: Path) -> None:
    """Without target_true there is no contest, and only what the model says by itself is measured."""
    path = tmp_path / f"facts.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(f) + "\n" for f in FACTS))
    else:
        with path.open("w", newline="") as f:
            out = csv.writer(f)
            out.writerow(["prompt", "subject", "target_new", "target_true", "paraphrases"])
            out.writerows([[f["prompt"], f["subject"], f["target_new"], "London", "|".join(f.get("paraphrases", []))] for f in FACTS])  # fmt: skip # noqa: E501
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(f"Text {i} about Ada Moreth, who was born in London." for i in range(30)))
    given = override(quick("memit"), "task=facts", f"task.path={path}", "task.n_requests=null")
    run = execute_now(prepared([*given, f"task.corpus_path={corpus}"], tiny_model("gpt2")))
    assert run.summary["n_edits"] == 3 and run.summary["perplexity"] > 0
    assert ("ES" in run.summary) == (kind == "csv") and "ES_acc" in run.summary


def test_a_second_moment_is_not_used_for_another_model(
    quick: Quick, tiny_model: TinyModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    execute_now(prepared(quick(), tiny_model("gpt2")))
    kept = tmp_path / "outputs" / "cache" / "moments"
    assert len(list(kept.glob("*.npz"))) == 1
    execute_now(prepared(quick("p-rome"), tiny_model("gpt2")))
    assert len(list(kept.glob("*.npz"))) == 1
    execute_now(prepared(quick("rome", "layer.index=2"), tiny_model("gpt2")))
    execute_now(prepared(override(quick(), "editor.mom2_n_samples=3"), tiny_model("gpt2")))
    execute_now(prepared(override(quick(), f"model.path={checkpoint('llama')}"), tiny_model("llama")))
    assert len(list(kept.glob("*.npz"))) == 4
    assert all(json.loads(p.read_text())["tokens"] > 0 for p in kept.glob("*.json"))


def test_python_says_what_the_command_line_says(say: CommandLine, quick: Quick) -> None:
    with pytest.raises(edit_robust.UserError, match="there is no editor 'romee'"):
        edit_robust.run(["editor=romee"])
    with pytest.raises(edit_robust.UserError, match="no run"):
        edit_robust.load("nothing")


def test_write_json_of_the_helpers_is_read(tmp_path: Path) -> None:
    path = write_json(tmp_path / "f.json", tiny_facts(2))
    task = launch.build(
        resolved(compose(["task=counterfact", f"task.path={path}", "task.n_requests=2"]))["task"], "task"
    )
    assert [r.id for r in task.requests()] == ["0", "1"]
