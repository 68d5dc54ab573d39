"""Every language editor on every kind of checkpoint, with real requests and real downstream questions.

One editor of every family on every checkpoint, chosen so that each editor has its turn; the other pairs are thorough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from helpers.mend import QUICK as MEND
from helpers.real import real
from helpers.runs import VALUES, go, prepared
from helpers.small import statistics_file

from edit_robust.models.language.causal_lm import CausalLM

WRITTEN = [*VALUES, "editor.mom2_update_weight=10"]
#: Of the made-up second moments, this threshold leaves about half of the inputs.
NULL_SPACE = ["editor.nullspace_threshold=1.0", "editor.l2=1.0"]
STEPS = ["editor.num_steps=2"]
FAMILIES: dict[str, dict[str, list[str]]] = {
    "rank one": {"rome": VALUES, "r-rome": VALUES, "p-rome": VALUES},
    "several layers": {"memit": WRITTEN, "emmet": WRITTEN, "pmet": WRITTEN, "rect": WRITTEN, "prune": WRITTEN},
    "past keys": {
        "memit-seq": WRITTEN,
        "encore": WRITTEN,
        "alphaedit": [*VALUES, *NULL_SPACE],
        "nse": WRITTEN,
    },
    "gradients": {"ft": STEPS, "ft-l2": STEPS, "ft-unconstrained": STEPS, "lora": [*STEPS, "editor.rank=2"]},
    "hypernetwork": {"mend": [f"editor.{name}={value}" for name, value in MEND.items()]},
}
KINDS = ["gpt2", "gptj", "llama", "qwen2", "gpt2-bfloat16", "llama-bfloat16", "stories"]
#: One editor of every family; --thorough has all.
ZSRE = ("rome", "memit", "alphaedit", "ft", "mend")
#: Downstream tasks and their files of shots; each checkpoint meets all of them.
TASKS = {"sst2": "sst2_fewshot40", "mrpc": "mrpc_fewshot40", "cola": "cola_fewshot40", "rte": "rte_train_fewshot40"}

Pair = tuple[str, str]


def pairs() -> list[tuple[Pair, bool]]:
    """Every editor with every checkpoint, and whether it is in the quick choice."""
    found = []
    for k, kind in enumerate(KINDS):
        for editors in FAMILIES.values():
            found += [((name, kind), i == k % len(editors)) for i, name in enumerate(editors)]
    return found


OPTIONS = {name: options for editors in FAMILIES.values() for name, options in editors.items()}


def test_the_quick_choice_leaves_no_editor_out() -> None:
    quick = [pair for pair, is_quick in pairs() if is_quick]
    assert {name for name, _ in quick} == set(OPTIONS) and len(quick) == len(KINDS) * len(FAMILIES)
    conf = Path(__file__).parents[2] / "conf" / "editor"
    language = {p.stem for p in conf.glob("*.yaml") if "editors.language" in p.read_text()}
    assert set(OPTIONS) == language, "an editor has come or gone"


@pytest.fixture(scope="module")
def loaded(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[CausalLM, Path]]:
    """kind -> a model read from a folder as `from_pretrained` expects it, and the folder."""
    made: dict[str, tuple[CausalLM, Path]] = {}

    def get(kind: str) -> tuple[CausalLM, Path]:
        if kind not in made:
            base, _, dtype = kind.partition("-")
            folder = real("models/stories260K-hf") if kind == "stories" else checkpoint(base)
            if dtype:
                folder = tmp_path_factory.mktemp(kind)
                plain = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(base), dtype=getattr(torch, dtype))
                plain.save_pretrained(folder)
                transformers.AutoTokenizer.from_pretrained(checkpoint(base)).save_pretrained(folder)
            model = CausalLM(str(folder), name=kind, device="cpu", dtype=dtype or "float32")
            made[kind] = model, folder
        return made[kind]

    return get


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs, so that second moments are computed once for a model's layer."""
    return tmp_path_factory.mktemp("everywhere")


def given(editor: str, kind: str, model: CausalLM, folder: Path, outputs: Path, *requests: str) -> list[str]:
    """The options of two edits, one after the other, with six questions of a downstream task before and after."""
    task = list(TASKS)[list(OPTIONS).index(editor) % len(TASKS)]
    mom2 = [f"editor.mom2={statistics_file(outputs, model)}"] if editor == "alphaedit" else []
    dtype = str(model.dtype).removeprefix("torch.")
    return [
        f"editor={editor}",
        *OPTIONS[editor],
        *mom2,
        *("model=hf", f"model.path={folder}", f"model.name={kind}", f"model.dtype={dtype}", "device=cpu"),
        *("figures=false", "tracker=none"),
        *requests,
        *("task.n_requests=2", "trajectory.every=2", f"paths.outputs={outputs}"),
        *(f"measure=[answers,edits,drift,{task}]", f"measure.{task}.n=6", f"measure.{task}.n_shots=1"),
        f"measure.{task}.path={real(f'glue/{task}_small200.jsonl')}",
        f"measure.{task}.shots={real(f'glue/{TASKS[task]}.jsonl')}",
    ]


def check(options: list[str], model: CausalLM) -> None:
    """The run is made whole, both edits change weights by a finite amount, and the model is left as it was."""
    run = go(prepared(options, model))
    assert run.complete and model.position == model.base
    rows = run.records
    assert sorted(set(rows.step)) == [0, 1, 2]
    told = rows[(rows.scope == "at-edit") & (rows.probe == "")]
    assert (told[told.metric == "refused"].value == 0).all() and len(told[told.metric == "refused"]) == 2
    sizes = told[told.metric == "relative_norm"].value
    assert len(sizes) == 2 and (sizes > 0).all() and all(map(math.isfinite, sizes))
    assert 0 < run.summary["drift"] < math.inf
    assert rows[rows.metric == "token_accuracy"].value.between(0, 1).all()
    asked = rows[rows.metric.isin(["accuracy_likelihood", "invalid_generated"])]
    assert set(asked.step) == {0, 2} and set(asked.n) == {6} and asked.value.between(0, 1).all()


@pytest.mark.parametrize(
    ("editor", "kind"), [pytest.param(*p, marks=[] if is_quick else pytest.mark.thorough) for p, is_quick in pairs()]
)
def test_counterfact(editor: str, kind: str, loaded: Callable[[str], tuple[CausalLM, Path]], outputs: Path) -> None:
    if editor == "lora":
        pytest.importorskip("peft")
    path = real("counterfact/counterfact_120.json")
    model, folder = loaded(kind)
    check(given(editor, kind, model, folder, outputs, "task=counterfact", f"task.path={path}"), model)


@pytest.mark.slow
@pytest.mark.parametrize("editor", [pytest.param(e, marks=[] if e in ZSRE else pytest.mark.thorough) for e in OPTIONS])
def test_zsre(editor: str, loaded: Callable[[str], tuple[CausalLM, Path]], outputs: Path) -> None:
    """The other form of requests, on every kind of checkpoint in turn."""
    if editor == "lora":
        pytest.importorskip("peft")
    path = real("zsre/zsre_mend_eval_200.json")
    kind = KINDS[list(OPTIONS).index(editor) % len(KINDS)]
    model, folder = loaded(kind)
    check(given(editor, kind, model, folder, outputs, "task=zsre", f"task.path={path}"), model)
