"""Downstream measures in runs: when they ask, what they record, and that a killed run ends the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.real import real
from helpers.runs import fuse, go, options, prepared, records
from helpers.tiny import tiny_facts, write_json

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.core import UserError
from edit_robust.core.question_sets import Asked, QuestionSet
from edit_robust.evaluate.downstream import fitted, generated, likeliest, probe_of
from edit_robust.evaluate.every import due
from edit_robust.figures.frame import RunData
from edit_robust.figures.language import downstream as figure
from edit_robust.models.base import Said
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language import fact_world
from edit_robust.trajectories import Point, Scope

Get = Callable[[str], CausalLM]


@pytest.fixture
def given(checkpoint: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """A quick run that asks twelve reviews before, after two edits and at the end."""
    lines = [{"sentence": f"{'flute' if i % 3 else 'piano'} {i}", "label": i % 2} for i in range(18)]
    for name, some in (("asked", lines[:12]), ("shots", lines[12:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in some))
    facts = write_json(tmp_path / "facts.json", tiny_facts(5))
    more = [
        *("measure=[facts,sst2]", "measure.sst2.every=2", "measure.sst2.n_shots=2"),
        *(f"measure.sst2.path={tmp_path / 'asked.jsonl'}", f"measure.sst2.shots={tmp_path / 'shots.jsonl'}"),
    ]
    return options(checkpoint("gpt2"), facts, tmp_path / "outputs", "ft", "task.n_requests=5", *more)


def test_what_a_run_records(given: list[str], tiny_model: Get) -> None:
    run = go(prepared(given, tiny_model("gpt2")))
    rows = run.records[run.records.probe.str.startswith("sst2")]
    assert set(rows.probe) == {"sst2:gcf-2"}, "the protocol and the shots that were really shown"
    assert sorted(set(rows.step)) == [0, 2, 4, 5] and set(rows.n) == {12} and set(rows.scope) == {"model"}
    both = {f"{m}_{how}" for m in ("f1", "accuracy", "mcc") for how in ("generated", "likelihood")}
    said = {f"said_{word}_{how}" for word in ("positive", "negative") for how in ("generated", "likelihood")}
    assert set(rows.metric) == both | said | {"invalid_generated", "f1_constant", "f1_coin"}
    first = rows[rows.step == 0].set_index("metric").value
    assert first.f1_constant == pytest.approx(1 / 3) and first.f1_coin == pytest.approx(0.5)
    assert first.said_positive_likelihood + first.said_negative_likelihood == pytest.approx(1)
    summary = run.summary
    assert summary["unedited_sst2_gcf_2_f1_likelihood"] == pytest.approx(100 * first.f1_likelihood)
    assert {"sst2_gcf_2_f1_generated", "sst2_gcf_2_invalid_generated"} <= summary.keys()
    kept = run.arrays(5, "sst2")
    assert kept["sst2|logp"].shape == (12, 2) and len(kept["sst2|text"]) == 12
    np.testing.assert_array_equal(kept["sst2|likelihood"], kept["sst2|logp"].argmax(1))
    assert len(run.examples_of("sst2")) == 12
    assert run.status["downstream_sst2"] == {"protocol": "gcf-2", "shots": 2, "n": 12, "cut": 0}
    data = RunData.of(run)
    assert figure.wants(data)
    drawn = figure.draw([data])
    assert drawn.axes[0].get_title(loc="left") == "sst2 (gcf-2)"
    heights = {round(float(line.get_ydata()[0]), 1) for line in drawn.axes[0].lines if len(line.get_xdata()) == 2}
    assert {0.0, 33.3, 50.0} <= heights


@pytest.mark.slow
def test_killed_it_ends_the_same(given: list[str], tiny_model: Get, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    whole = go(prepared(given, model))
    made = prepared([*(g for g in given if "paths." not in g), f"paths.outputs={tmp_path / 'killed'}"], model)
    kills = 0
    for after in (7, 11, 15, 100):
        try:
            with fuse(after):
                run = go(made)
        except BaseException as e:
            assert type(e).__name__ == "KilledError", e
            kills += 1
    assert kills >= 2 and records(run) == records(whole)


def test_it_is_asked_every_so_many_edits() -> None:
    def asked(every: int, batch: int = 1, n: int = 7) -> list[int]:
        points = [Point(0, 1.0, 0, (Scope("unedited", range(n)),), True)]
        for step, start in enumerate(range(0, n, batch), start=1):
            some = range(start, min(start + batch, n))
            points.append(Point(step, 1.0, some.stop, (Scope("at-edit", some),)))
        return [p.n_edits for p in points if due(p, every, n)]

    assert asked(3) == [0, 3, 6, 7] and asked(10) == [0, 7] and asked(3, batch=2) == [0, 4, 6, 7]
    alpha = Point(4, 0.5, 7, (Scope("final", range(7)),), True)
    assert due(alpha, 100, 7)
    one = [Point(i + 1, 1.0, 1, (Scope("at-edit", [i]),)) for i in range(7)]  # independent edits
    assert [p.step for p in one if due(p, 3, 7)] == [3, 6, 7]


def test_answers_are_read_in_both_ways() -> None:
    asked = tuple(Asked("?", right, ("Yes", "No")) for right in ("Yes", "No", "No"))
    said = Said(
        (" Yes", " nothing", " No, no"), np.array([[-1.0, -2], [-3, -1], [-0.1, -0.2]]), *[np.zeros((3, 2))] * 2
    )
    one = QuestionSet("cola", "gcf", asked)
    assert generated(one, said).tolist() == [0, -1, 1] and likeliest(one, said).tolist() == [0, 1, 0]
    missing = replace(said, logp=np.full((3, 2), np.nan))
    assert likeliest(one, missing).tolist() == [-1, -1, -1]


def test_what_does_not_fit_into_the_window(tiny_model: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Shots go first, then a prompt's beginning; the protocol and one line tell."""
    model = tiny_model("gpt2")
    short = "The teacher plays the piano. " * 2
    one = QuestionSet("sst2", "gcf", (Asked(f"{short}Answer:", "Yes", ("Yes", "No")),), (f"{short}\n\n",) * 9)
    assert fitted(replace(one, shots=one.shots[:1]), model, 3).protocol == "gcf-1"
    less = fitted(one, model, 3)
    assert 0 < len(less.shots) < 9 and probe_of(less) == f"sst2:gcf-{len(less.shots)}" and less.cut == 0
    assert f"{9 - len(less.shots)} of 9 shots left out: gpt2 reads 128 tokens" in caplog.text
    long = replace(one, questions=(Asked(f"{short * 20}Answer:", "Yes", ("Yes", "No")),))
    cut = fitted(long, model, 3)
    assert cut.shots == () and cut.cut == 1 and "1 prompts cut" in caplog.text
    assert cut.questions[0].prompt.endswith("Answer:") and long.questions[0].prompt.endswith(cut.questions[0].prompt)
    assert 120 <= len(model.text.encode(cut.questions[0].prompt)) <= 125
    model.few_shot([cut.questions[0].prompt], [[" Yes", " No"]], 3).ask()


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "qwen2"])
@pytest.mark.slow
def test_the_real_tasks_on_tiny_models(checkpoint: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    """All four, a few questions each, in bfloat16 too: whatever the models say, the numbers are what they must be."""
    glue = real("glue")
    facts = write_json(tmp_path / "facts.json", tiny_facts(3))
    given = ["measure=glue", "task.n_requests=2", f"model.dtype={'bfloat16' if kind == 'llama' else 'float32'}"]
    for task in ("sst2", "mrpc", "cola", "rte"):
        shots = "rte_train_fewshot40" if task == "rte" else f"{task}_fewshot40"
        given += [
            f"measure.{task}.path={glue / f'{task}_small200.jsonl'}",
            f"measure.{task}.shots={glue / f'{shots}.jsonl'}",
            f"measure.{task}.n=6",
            f"measure.{task}.n_shots=1",
        ]
    run = go(experiment(compose(options(checkpoint(kind), facts, tmp_path / "outputs", "ft", *given))))
    rows = run.records
    assert {p.partition(":")[0] for p in rows.probe if p} == {"sst2", "mrpc", "cola", "rte"}
    shares = rows[rows.metric.str.startswith(("f1", "accuracy", "invalid", "said"))].value
    assert shares.between(0, 1).all() and set(rows.n) == {6}
    assert rows[rows.metric == "accuracy_likelihood"].value.notna().all()


@pytest.mark.slow
def test_stories_with_four_shots() -> None:
    """A trained model of another kind: shots that do not fit are left out."""
    model = CausalLM(str(real("models/stories260K-hf")), device="cpu")
    glue = real("glue")
    made = experiment(
        compose(
            [
                *("measure=cola", f"measure.cola.path={glue / 'cola_small200.jsonl'}", "measure.cola.n=20"),
                f"measure.cola.shots={glue / 'cola_fewshot40.jsonl'}",
            ]
        )
    )
    measure: Any = made.measures["cola"]
    setting = SimpleNamespace(model=model, changes=model.parameter_names([model.layer_at(2).name]), requests=[1])
    measure.prepare(setting)
    assert 1 <= len(measure._sets[0].shots) <= 6
    said = measure._asked[0].ask()
    assert len(said.texts) == 20 and np.isfinite(said.logp).all()


@pytest.mark.slow
def test_the_fact_worlds_own_tasks_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in model is asked about subjects that are not edited; sentences it completes."""
    monkeypatch.setattr(fact_world, "_DOWNSTREAM", 20)
    run = go(
        experiment(
            compose(
                [
                    *("task.n_requests=2", "measure=downstream", "figures=false", "tracker=none", "editor=ft"),
                    *("editor.num_steps=1", f"paths.outputs={tmp_path}", "device=cpu"),
                ]
            )
        )
    )
    rows = run.records[run.records.step == 0].set_index(["probe", "metric"]).value
    assert {p for p, _ in rows.index} == {"untouched-facts:world-0", "completions:world-0", "claims:world-2"}
    assert rows["completions:world-0", "accuracy_likelihood"] > 0.4
    assert set(run.records[run.records.metric == "f1_generated"].n) == {20}


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"sentence": "a", "label": 1}')
    for given, problem in (
        ([f"measure.sst2.path={tmp_path / 'one.jsonl'}"], "has no example of label 0"),
        (["measure.sst2.every=0"], "every=0 of a downstream measure must be at least 1"),
        (["measure.sst2.n=1"], "measure.sst2.n=1 must be at least 2"),
        (["measure.sst2.n_shots=-1"], "must be 0 or more"),
        (["measure.sst2.protocol=gfc"], 'measure.sst2.protocol=gfc: did you mean "gcf"'),
    ):
        shots = [] if "n_shots" in given[0] else ["measure.sst2.n_shots=0"]
        with pytest.raises(UserError, match=problem):
            experiment(compose(["measure=sst2", *shots, *given]))
    with pytest.raises(UserError, match="measure=downstream needs a task with downstream, and task=zsre has none"):
        from edit_robust.config.check import check

        check(compose(["measure=downstream", "task=zsre", "model=gpt2"]))
