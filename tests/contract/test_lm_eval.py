"""lm-evaluation-harness on the model in memory: its own numbers, with a small task of our own."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import go, options, prepared
from helpers.small import left_as_found
from helpers.tiny import tiny_facts, write_json

from edit_robust.core import UserError
from edit_robust.evaluate import lm_eval as measure
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

TASKS: dict[str, dict[str, Any]] = {
    "tiny-choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}",
        "num_fewshot": 2,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny-text": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{options[right]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
    "tiny-rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of the tiny world's facts, in the harness's own format."""
    pytest.importorskip("lm_eval")
    here = tmp_path_factory.mktemp("tasks")
    lines = []
    for record in tiny_facts(8):
        rewrite = record["requested_rewrite"]
        question = rewrite["prompt"].replace("{}", rewrite["subject"])
        found = [rewrite["target_true"]["str"], rewrite["target_new"]["str"]]
        lines.append(json.dumps({"question": question, "options": found, "right": 0}))
    (here / "facts.jsonl").write_text("\n".join(lines))
    for name, task in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(here / "facts.jsonl")}}}
        split = {"test_split": "test"} | ({"fewshot_split": "test"} if "num_fewshot" in task else {})
        (here / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **split, **task}))
    return here


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are unpacked into a folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def evaluated(lm: Any, folder: Path) -> dict[str, dict[str, float]]:
    import lm_eval

    manager = measure._manager(list(TASKS), str(folder))
    found = lm_eval.simple_evaluate(
        model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=False
    )
    assert found is not None
    return {
        task: {k: float(v) for k, v in numbers.items() if isinstance(v, float | int) and "stderr" not in k}
        for task, numbers in found["results"].items()
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_answers_as_the_harness_itself_does(checkpoint: Callable[[str], Path], folder: Path, kind: str) -> None:
    """The same numbers as lm-eval's adapter of the same network, before and after a change; none of it is left."""
    from lm_eval.models.huggingface import HFLM

    from edit_robust.evaluate.lm_eval_model import InMemory

    model = CausalLM(str(checkpoint(kind)), device="cpu")
    changes = model.parameter_names([model.layer_at(1).name])
    ours = InMemory(model, changes, 0)
    for change in (0.0, 0.7):
        weight = model.layer_at(1).weight
        weight.data += change * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        with left_as_found(model):
            found = evaluated(ours, folder)
        theirs = HFLM(pretrained=model.net, tokenizer=str(checkpoint(kind)), batch_size=4, device="cpu")
        wanted = evaluated(theirs, folder)
        assert found.keys() == wanted.keys() == set(TASKS)
        for task, numbers in wanted.items():
            assert found[task] == pytest.approx(numbers, rel=1e-4), task
    assert len(ours._scorers) == 2, "the same questions were made ready again"


def test_a_run_with_it(checkpoint: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    """A record a metric, at the unedited model, every so many edits and at the end; the global generators are kept."""
    facts = write_json(tmp_path / "facts.json", tiny_facts(6))
    model = CausalLM(str(checkpoint("gpt2")), device="cpu")
    given = options(checkpoint("gpt2"), facts, tmp_path / "outputs", "ft")
    given += [
        "measure=lm-eval",
        "measure.lm-eval.tasks=[tiny-choice,tiny-rolling]",
        f"measure.lm-eval.include={folder}",
        "measure.lm-eval.every=3",
        "measure.lm-eval.limit=4",
    ]
    made = prepared(given, model)
    np.random.seed(3)  # the harness seeds the global generator with 0
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    run = go(made)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    rows = run.records
    assert set(rows.probe) == {"lm-eval:tiny-choice-2", "lm-eval:tiny-rolling-0"}
    assert set(rows.metric) == {"acc", "acc_norm", "word_perplexity"} and set(rows.n) == {4}
    assert sorted(set(rows.step)) == [0, 3, 4]
    assert 0 <= run.summary["lm_eval_tiny_choice_2_acc"] <= 1
    assert run.summary["unedited_lm_eval_tiny_rolling_0_word_perplexity"] > 1


def test_global_generators_are_kept() -> None:
    states = (random.getstate(), torch.get_rng_state())
    with measure._generators_kept():
        random.seed(1)
        torch.manual_seed(1)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_what_is_missing_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no task 'tiny-choise'; did you mean \"tiny-choice\""):
        monkeypatch.setattr("lm_eval.tasks.TaskManager.__init__", _small(folder))
        measure._manager(["tiny-choise"], str(folder))
    with pytest.raises(UserError, match="tasks is empty"):
        measure.LmEval([])
    with pytest.raises(UserError, match="limit=0 must be at least 1"):
        measure.LmEval(["a"], limit=0)


def _small(folder: Path) -> Callable[..., None]:
    """A task manager without the harness's thousands of tasks, which take seconds to look through."""
    from lm_eval.tasks import TaskManager

    inner = TaskManager.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        inner(self, include_path=str(folder), include_defaults=False)

    return init


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "edit-robust\[lm-eval\]"'):
        measure.LmEval(["a"])
