"""What models write, what follows from edits, how far predictions moved: on tiny checkpoints, through whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.plain import plain_logits
from helpers.runs import KilledError, fuse, go, options, override, prepared, records
from helpers.tiny import tiny_facts, write_json

from edit_robust.config.check import check
from edit_robust.config.compose import compose
from edit_robust.core import TextRequest, UserError
from edit_robust.core.work import Workspace
from edit_robust.evaluate.base import Measure, Measured, Setting
from edit_robust.evaluate.free_generation import FreeGeneration
from edit_robust.evaluate.generation import Generation
from edit_robust.evaluate.kl import Kl
from edit_robust.evaluate.moments import watched
from edit_robust.evaluate.statistics.text import generation_entropy, normalised
from edit_robust.evaluate.summary import summarise
from edit_robust.models.language import generation
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.runs.reader import Run
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.questions import ask
from edit_robust.trajectories import Point, Scope

pytestmark = pytest.mark.slow

Get = Callable[[str], CausalLM]
Given = Callable[..., list[str]]
MEASURE = (
    "measure=[answers,generation,free-generation,ripple,kl]",
    "measure.generation.tokens=16",
    "measure.free-generation.max_tokens=6",
    "measure.kl.tokens=60",
)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts with questions that follow from them; the last one brings nothing."""
    facts = tiny_facts(5)
    for record in facts[:4]:
        edit = record["requested_rewrite"]
        new, old = edit["target_new"]["str"], edit["target_true"]["str"]
        record["question"] = "Tell me about {}:"
        record["generation_prompts"] = ["{}", "Yesterday {}"]
        record["references"] = [f"Ada Valdoran knows {new}."]
        record["ripple"] = [
            {"kind": "alias", "prompt": edit["prompt"], "target": new, "target_true": old},
            {"kind": "reasoning", "prompt": "{} is known for", "target": new},
        ]
    return write_json(tmp_path_factory.mktemp("rich") / "facts.json", facts)


@pytest.fixture(scope="module")
def given(checkpoint: Callable[[str], Path], rich: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    def make(kind: str, *more: str) -> list[str]:
        found = options(checkpoint(kind), rich, tmp_path_factory.mktemp("runs") / "outputs", "rome", *MEASURE)
        return override(found, "task.n_requests=5", "trajectory.every=5", *more)

    return make


@pytest.fixture(scope="module")
def finished(given: Given, tiny_model: Get) -> Run:
    """A run on GPT-2, in which the unedited model reads what was written, too."""
    return go(prepared(given("gpt2", "measure.generation.perplexity=true"), tiny_model("gpt2")))


def rows(run: Run, **wanted: Any) -> Any:
    table = run.records
    for key, value in wanted.items():
        table = table[table[key] == value]
    return table


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama", "qwen2"])
def test_a_run_writes_and_answers(kind: str, given: Given, tiny_model: Get, finished: Run) -> None:
    run = finished if kind == "gpt2" else go(prepared(given(kind), tiny_model(kind)))
    for mode in ("sampled", "greedy"):
        entropy = rows(run, metric=f"entropy_{mode}", scope="at-edit")
        assert list(entropy.n) == [1] * 5 and (entropy.value >= 0).all()
        assert rows(run, metric=f"entropy_{mode}", scope="final").n.item() == 5
        scores = rows(run, metric=f"reference_score_{mode}")
        assert scores.value.between(0, 1).all()
        assert rows(run, metric=f"reference_score_{mode}", scope="unedited").n.item() == 4, "one brings no references"
        assert rows(run, metric=f"tokens_{mode}").value.between(1, 16).all()
    for metric in ("exact_generated", "contains_generated", "accuracy_teacher_forced"):
        assert rows(run, metric=metric, probe="edit").value.between(0, 1).all()
    assert set(rows(run, probe="ripple-alias").metric) == {"success", "magnitude", "accuracy", "token_accuracy"}
    assert set(rows(run, probe="ripple-reasoning").metric) == {"accuracy", "token_accuracy"}, "nothing to compare with"
    assert rows(run, probe="ripple-alias", scope="final").n.max() == 4
    assert "alias 4, reasoning 4" in run.status["ripple"]
    kl = rows(run, metric="kl")
    assert kl.value.iloc[0] == 0 and kl.step.iloc[0] == 0 and (kl.value[1:] > 0).all()
    assert rows(run, metric="same_argmax").value.iloc[0] == 1
    wanted = {"GE_sampled", "GE_greedy", "RS_sampled", "unedited_GE_greedy", "final_RS_greedy", "generated_exact"}
    wanted |= {"teacher_forced", "retention_generated_exact", "ripple_alias", "ripple_alias_acc", "kl"}
    wanted |= {"ripple_reasoning_acc", "same_argmax_pct", "unended_generated"}
    assert wanted <= set(run.summary) and "ripple_reasoning" not in run.summary
    again = summarise(run.records)
    assert all(again[key] == run.summary[key] for key in wanted)


def begun(run: Run) -> list[str]:
    """What texts begin with, as the requests say."""
    subjects = [f["requested_rewrite"]["subject"] for f in tiny_facts(5)]
    asked = run.examples_of("answers")
    last = str(asked[(asked.group == "4") & (asked.probe == "edit")].x.item())
    return [p for s in subjects[:4] for p in (s, f"Yesterday {s}")] + [last]


def test_texts_are_kept_and_numbers_are_theirs(finished: Run, tiny_model: Get) -> None:
    model, prompts = tiny_model("gpt2"), begun(finished)
    arrays = finished.arrays(0, "generation")
    texts = arrays["unedited|greedy|text"].tolist()
    assert arrays["unedited|greedy|request"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert texts == [model.generate([p], 16, max_length=16)[0] for p in prompts], "batched and alone are equal"
    each = [generation_entropy(p + t) for p, t in zip(prompts, texts, strict=True)]
    by_hand = np.mean([np.mean(each[2 * r : 2 * r + 2]) for r in range(5)])
    assert rows(finished, metric="entropy_greedy", scope="unedited").value.item() == pytest.approx(by_hand)


def test_the_same_question_is_asked_in_both_ways(finished: Run, tiny_model: Get) -> None:
    model, arrays = tiny_model("gpt2"), finished.arrays(0, "free-generation")
    asked = finished.examples_of("free-generation")
    assert asked.x.str.startswith("Tell me about").tolist() == [True] * 4 + [False]
    assert arrays["unedited|text"].tolist() == model.generate(asked.x.tolist(), 6, stop=[". ", "! ", "? ", "\n"])
    forced = []
    for x, (answer,) in zip(asked.x, asked.choices, strict=True):
        ids, start = model.text.encode(x + answer), len(model.text.encode(x))
        forced.append(plain_logits(model, ids)[start - 1 : -1].argmax(-1).tolist() == ids[start:])
    assert arrays["unedited|forced"].tolist() == forced


def unedited(measure: Measure, model: CausalLM, task: Any, seed: int = 0) -> Measured:
    """What a measure finds about a task's requests at the unedited model."""
    layers, run, requests = list(model.layers)[:1], None, task.requests()
    changes = model.parameter_names(layers)
    setting = Setting(
        run_id="r", model=model, task=task, requests=requests, layers=layers, changes=changes,
        before=model.snapshot(changes), run=run, work=Workspace(Path("nowhere"), seed=seed),
    )  # type: ignore[arg-type]  # fmt: skip
    measure.prepare(setting)
    found = measure.at(Point(0, 1.0, 0, (Scope("unedited", range(len(requests))),)), {})
    assert found is not None
    return found


class Asks:
    """A task of one request."""

    name, gives = "asks", TextRequest

    def __init__(self, prompt: str, target: str) -> None:
        self.made = [TextRequest("a", "{}", target, None, prompt)]

    def requests(self) -> list[TextRequest]:
        return self.made

    def probes(self, requests: Any) -> Any:
        return ask(requests)


def test_an_answer_that_the_model_gives_is_right(tiny_model: Get) -> None:
    """The target is what the model says by itself: right in both ways; its beginning alone is found, and not equal."""
    model = tiny_model("llama")
    prompts = [f"{name} Mavrost plays the" for name in ("Ada", "Boris", "Clara", "Elsa", "Greta", "Hugo")]
    written = zip(prompts, model.generate(prompts, 8, stop=["\n"]), strict=True)
    prompt, said = next((p, t.strip()) for p, t in written if len(normalised(t.split()[0])) and len(t.split()) > 1)
    for target, exact in ((said, 1.0), (said.split()[0], 0.0)):
        found = unedited(FreeGeneration(max_tokens=8, ends=["\n"]), model, Asks(prompt, target))
        values = {r.metric: r.value for r in found.records}
        assert values["exact_generated"] == exact and values["contains_generated"] == 1.0, said
        assert values["unended_generated"] == 1.0 and values["tokens_generated"] == 8


def test_sampled_text_depends_on_seed_and_prompt_alone(rich: Path, tiny_model: Get) -> None:
    def texts(order: int, seed: int = 0) -> dict[str, list[str]]:
        task = Counterfact(path=str(rich), order=order)
        arrays = unedited(Generation(["sampled"], 16), tiny_model("gpt2"), task, seed).outcomes
        ids, found = [r.id for r in task.requests()], {}
        for r, text in zip(arrays["unedited|sampled|request"], arrays["unedited|sampled|text"], strict=True):
            found.setdefault(ids[r], []).append(str(text))
        return found

    assert texts(0) == texts(1) != texts(0, seed=1)


def test_a_kill_changes_nothing(given: Given, tiny_model: Get, finished: Run) -> None:
    made = given("gpt2", "measure.generation.perplexity=true")
    with pytest.raises(KilledError), fuse(12):
        go(prepared(made, tiny_model("gpt2")))
    resumed = go(prepared(made, tiny_model("gpt2")))
    assert resumed.status["resumed"] == 1 and records(resumed) == records(finished)


def test_nothing_written_is_a_value(rich: Path, tiny_model: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ends every text at once: no token, no entropy, a wrong answer, and no crash."""
    model = tiny_model("gpt2")
    monkeypatch.setattr(generation, "end_tokens", lambda model: frozenset(range(model.vocabulary)))
    task = Counterfact(path=str(rich))
    found = unedited(Generation(tokens=16, perplexity=True), model, task)
    values = {r.metric: r.value for r in found.records}
    for mode in ("sampled", "greedy"):
        assert values[f"empty_{mode}"] == 1 and values[f"tokens_{mode}"] == 0
        assert f"perplexity_unedited_{mode}" not in values, "there is nothing to read"
    table = pd.DataFrame([r.to_dict() for r in found.records])
    assert summarise(table)["unedited_generated_empty_greedy"] == 100
    bare = unedited(Generation(tokens=16, counted="new"), model, task).records
    assert all(r.value == 0 for r in bare if r.metric.startswith(("entropy", "reference_score")))
    values = {r.metric: r.value for r in unedited(FreeGeneration(), model, task).records}
    assert values["exact_generated"] == 0 and values["empty_generated"] == 1


def test_the_unedited_model_reads_what_was_written(finished: Run, tiny_model: Get) -> None:
    model, prompts = tiny_model("gpt2"), begun(finished)
    texts = finished.arrays(5, "generation")["final|greedy|text"].tolist()
    total, n = 0.0, 0
    for prompt, text in zip(prompts, texts, strict=True):
        ids, start = model.text.encode(prompt + text), len(model.text.encode(prompt))
        logp = plain_logits(model, ids).log_softmax(-1)
        total -= sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids)))
        n += len(ids) - start
    last = rows(finished, metric="perplexity_unedited_greedy", scope="final")
    assert last.n.item() == n and last.value.item() == pytest.approx(np.exp(total / n), rel=1e-3)


def test_kl_by_hand(given: Given, tiny_model: Get, finished: Run) -> None:
    model = tiny_model("gpt2")
    held_out = prepared(given("gpt2"), model).task.held_out()  # type: ignore[attr-defined]
    ids = [model.text.encode(t) for t in held_out]
    ids = [i for k, i in enumerate(ids) if sum(map(len, ids[: k + 1])) <= 60 or k == 0]
    before = [plain_logits(model, i)[:-1].double().log_softmax(-1) for i in ids]
    with model.patched(finished.delta()):
        after = [plain_logits(model, i)[:-1].double().log_softmax(-1) for i in ids]
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(before, after, strict=True)])
    last = rows(finished, metric="kl").iloc[-1]
    assert last.n == len(kl) and last.value == pytest.approx(float(kl.mean()), rel=1e-3)


def test_a_template_from_the_command_line() -> None:
    given = ["measure=[answers,free-generation]", r'measure.free-generation.template="Q: {}\nA:"']
    node = check(compose(given))["measure"]["free-generation"]
    made = FreeGeneration(**{k: v for k, v in node.items() if k != "_target_"})
    assert made.template == "Q: {}\nA:" and made.ends == [". ", "! ", "? ", "\n"]


def test_who_is_asked_again() -> None:
    assert watched(5, None) == watched(5, 9) == frozenset(range(5))
    assert watched(100, 4) == {0, 25, 50, 75} and watched(3, 1) == {0}


def test_what_does_not_fit() -> None:
    for make, says in (
        (lambda: Generation(modes=["sample"]), 'did you mean "sampled"'),
        (lambda: Generation(modes=[]), "at least one"),
        (lambda: Generation(tokens=0), "measure.generation.tokens=0 must be at least 1"),
        (lambda: FreeGeneration(probes=["edits"]), 'did you mean "edit"'),
        (lambda: FreeGeneration(template="Q:"), "must hold {} once"),
        (lambda: FreeGeneration(max_tokens=0), "must be at least 1"),
        (lambda: Kl(tokens=0), "measure.kl.tokens=0"),
    ):
        with pytest.raises(UserError, match=says):
            make()
