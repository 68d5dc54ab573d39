"""Whole runs on tiny checkpoints: every editor, trajectory, kind of data and sweep comes to its end."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.real import DATA, needs_data
from helpers.runs import QUICK, CommandLine, options, override, prepared
from helpers.runs import go as execute_now
from helpers.tiny import tiny_facts, write_json

import edit_robust
import edit_robust.runs.folder
import edit_robust.runs.reader
from edit_robust.config import launch
from edit_robust.config.check import resolved
from edit_robust.config.compose import compose
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
Checkpoint = Callable[[str], Path]
TinyModel = Callable[[str], CausalLM]


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
@needs_data
def test_the_papers_commands_run_on_tiny_checkpoints(
    say: CommandLine, editor: str, model: str, kind: str, checkpoint: Checkpoint
) -> None:
    """As the issue writes them; only shorter, and with layers that these checkpoints have."""
    given = [f"editor={editor}", f"model={model}", f"model.path={checkpoint(kind)}", "task=counterfact"]
    given += [f"task.path={DATA / 'counterfact' / 'counterfact_120.json'}", "layer.index=1", "task.n_requests=2"]
    given += [*QUICK[editor], "editor.mom2_n_samples=8", "figures=false", "tracker=none", "text_tokens=100"]
    said = say("run", *given)
    assert said.code == 0, said.err
    (run,) = edit_robust.runs.reader.list_runs(Path("outputs"))
    assert run.complete and run.summary["n_edits"] == 2
    assert "outputs/runs/" in said.out


@needs_data
def test_real_trained_weights(say: CommandLine) -> None:
    path = DATA / "models" / "stories260K-hf"
    given = ["editor=rome", "model=hf", f"model.path={path}", "task=counterfact", "task.n_requests=2"]
    given += [f"task.path={DATA / 'counterfact' / 'counterfact_120.json'}", "tracker=none", "figures=false"]
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


@needs_data
@pytest.mark.parametrize("target", ["answers", "alt"])
def test_zsre(target: str, quick: Quick, tiny_model: TinyModel) -> None:
    path = DATA / "zsre" / "zsre_mend_eval_200.json"
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
